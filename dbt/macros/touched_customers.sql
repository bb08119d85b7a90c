{#-
  Incremental marts hold rows of customers, and each remembers from what it made a customer's rows:
  `intermediate.built__<mart>` has the digest (int_customers__digested) that a customer had when the mart was last
  built. A customer is touched when the two differ. So a night recomputes the customers that the night changed,
  whatever changed them: new lines, a late refund, an order that moved to another customer, a removed row, another
  consent, a category renamed, a day that is earlier than the last. The memory is written in the transaction that
  writes the mart: a build that was killed half-way is finished by the next.
-#}

{#-
  Make the tables of that memory where they are missing. What another version of this project built is dropped and built
  anew: its rules or columns may differ.
-#}
{% macro begin_memory() %}
  {%- if execute and flags.WHICH in ('build', 'run', 'test') %}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.config.incremental_strategy == 'by_customer' %}
      {%- set memory = _memory(node.name) %}
      {%- do run_query(
        'create table if not exists ' ~ memory
        ~ ' (customer_id varchar not null, digest varchar not null, project varchar not null, invocation_id varchar not null)'
      ) %}
      {%- if flags.WHICH != 'test'
        and run_query("select 1 from " ~ memory ~ " where project <> '" ~ project_digest() ~ "' limit 1") | length > 0 %}
        {%- set mart = adapter.get_relation(database=node.database, schema=node.schema, identifier=node.alias) %}
        {%- if mart is not none %}{% do adapter.drop_relation(mart) %}{% endif %}
        {%- do run_query('delete from ' ~ memory) %}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
{% endmacro %}

{% macro _memory(mart) -%}
  {{ api.Relation.create(database=target.database, schema='intermediate', identifier='built__' ~ mart) }}
{%- endmacro %}

{#- Which version of this project builds; `nightmarket.transform` makes it from the files of this folder. -#}
{% macro project_digest() -%}
  {%- if execute -%}{{ env_var('NIGHTMARKET_DBT_DIGEST', 'unknown') }}{%- endif -%}
{%- endmacro %}

{#- The customers whose rows this build makes: all of them in a first or full build, else the touched. -#}
{% macro touched_customers() -%}
  select digested.customer_id
  from {{ ref('int_customers__digested') }} as digested
  {%- if is_incremental() %}
  left join {{ _memory(this.identifier) }} as built on built.customer_id = digested.customer_id
  where built.digest is null or built.digest <> digested.digest
  {%- endif %}
{%- endmacro %}

{#- Incremental strategy `by_customer`: the touched customers' rows and those of vanished customers go, new ones come. -#}
{% macro get_incremental_by_customer_sql(arg_dict) %}
  {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') %}
  delete from {{ arg_dict['target_relation'] }}
  where customer_id not in (
    select digested.customer_id
    from {{ ref('int_customers__digested') }} as digested
    inner join {{ _memory(this.identifier) }} as built
      on built.customer_id = digested.customer_id and built.digest = digested.digest
  );
  insert into {{ arg_dict['target_relation'] }} ({{ columns }})
  select {{ columns }} from {{ arg_dict['temp_relation'] }}
{% endmacro %}

{#- Post-hook of each incremental mart: remember from what it was made. -#}
{% macro remember_customers() %}
  {%- set built = _memory(this.identifier) %}
  delete from {{ built }}
  {%- if not should_full_refresh() %}
  where customer_id not in (
    select digested.customer_id
    from {{ ref('int_customers__digested') }} as digested
    inner join {{ built }} as built on built.customer_id = digested.customer_id and built.digest = digested.digest
  )
  {%- endif %};
  insert into {{ built }} (customer_id, digest, project, invocation_id)
  select digested.customer_id, digested.digest, '{{ project_digest() }}', '{{ invocation_id }}'
  from {{ ref('int_customers__digested') }} as digested
  where digested.customer_id not in (select customer_id from {{ built }})
{% endmacro %}
