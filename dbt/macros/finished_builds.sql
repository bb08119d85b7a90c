{#-
  `intermediate.built` has one row when the marts are whole: for which day, from which load, by which version of this
  project. A build takes the row away before it starts and puts it back when every model was built and every data test
  passed, so a build that failed, was killed or covered a part leaves none. `nightmarket.transform.needs_build()` reads it.
-#}

{% macro begin_build() %}
  create schema if not exists intermediate;
  create table if not exists {{ _finished_builds() }} (
    day date not null, batch bigint not null, time_zone varchar not null, project varchar not null,
    invocation_id varchar not null
  );
  {% if flags.WHICH == 'build' %}
  delete from {{ _finished_builds() }};
  {% endif %}
{% endmacro %}

{% macro finish_build(results) %}
  {%- if execute and flags.WHICH == 'build' %}
    {%- set wanted = [] %}
    {%- for node in graph.nodes.values() if node.resource_type in ('model', 'test') %}
      {%- do wanted.append(node.unique_id) %}
    {%- endfor %}
    {%- set good = [] %}
    {%- for result in results if result.status | string in ('success', 'pass', 'warn') and result.node.unique_id in wanted %}
      {%- do good.append(result.node.unique_id) %}
    {%- endfor %}
    {%- if wanted | length == good | length %}
  insert into {{ _finished_builds() }} (day, batch, time_zone, project, invocation_id)
  select day, batch, time_zone, '{{ project_digest() }}', '{{ invocation_id }}' from {{ api.Relation.create(database=target.database, schema='staging', identifier='stg_shop__night') }}
    {%- endif %}
  {%- endif %}
{% endmacro %}

{% macro _finished_builds() -%}
  {{ api.Relation.create(database=target.database, schema='intermediate', identifier='built') }}
{%- endmacro %}
