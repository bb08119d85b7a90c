{#- The columns together identify a row. -#}
{% test unique_together(model, columns) %}
  select {{ columns | join(', ') }}, count(*) as times
  from {{ model }}
  group by {{ columns | join(', ') }}
  having count(*) > 1
{% endtest %}

{#- Where the column has a value, the expression is true of it. -#}
{% test always(model, expression, column_name=none) %}
  select * from {{ model }} where not ({{ expression }})
{% endtest %}
