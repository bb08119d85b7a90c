{#- An amount of money. One too large to be money becomes null: it must not end the night. -#}
{% macro money(amount) -%}
  cast(case when abs({{ amount }}) < 10000000000000 then {{ amount }} end as decimal(18, 4))
{%- endmacro %}

{#- Text that says something, or null. -#}
{% macro some_text(column) -%}
  cast(nullif(trim({{ column }}), '') as varchar)
{%- endmacro %}

{#- The JSON list, as text, of a text column over those rows of a group that fulfil `where`. -#}
{% macro json_list(column, order_by, where) -%}
  cast(
    '[' || string_agg(cast(to_json({{ column }}) as varchar), ',' order by {{ order_by }}) filter (where {{ where }}) || ']'
    as varchar
  )
{%- endmacro %}

{#- The text of a key of a JSON object that is stored as text; null where there is none. -#}
{% macro json_text(column, key) -%}
  {{ return(adapter.dispatch('json_text', 'nightmarket')(column, key)) }}
{%- endmacro %}

{% macro default__json_text(column, key) -%}
  (cast({{ column }} as jsonb) ->> '{{ key }}')
{%- endmacro %}

{% macro duckdb__json_text(column, key) -%}
  json_extract_string({{ column }}, '$."{{ key }}"')
{%- endmacro %}

{#-
  A number for a row such that the sum over rows tells sets of rows apart whatever their order. Used only to see
  change between builds, never in a result, so engines may differ.
-#}
{% macro row_number_of(columns) -%}
  {{ return(adapter.dispatch('row_number_of', 'nightmarket')(columns)) }}
{%- endmacro %}

{% macro default__row_number_of(columns) -%}
  hashtextextended(
    {%- for column in columns %}coalesce(cast({{ column }} as varchar), '~'){{ " || '|' || " if not loop.last }}{% endfor -%}
  , 0)
{%- endmacro %}

{% macro duckdb__row_number_of(columns) -%}
  hash({{ columns | join(', ') }})
{%- endmacro %}
