{#- A schema of ours is called what it is called: `staging`, not `marts_staging`. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
