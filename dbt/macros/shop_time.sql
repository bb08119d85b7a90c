{#-
  Times are stored in UTC without a zone; days and hours are the shop's. `time_zone` is a column or literal of SQL,
  by custom the one of stg_shop__night.
-#}

{% macro shop_time(utc, time_zone='night.time_zone') -%}
  (({{ utc }} at time zone 'UTC') at time zone {{ time_zone }})
{%- endmacro %}

{#- The shop's date of a UTC time. -#}
{% macro shop_date(utc, time_zone='night.time_zone') -%}
  cast({{ shop_time(utc, time_zone) }} as date)
{%- endmacro %}

{#- The shop's hour, 0 to 23, of a UTC time. -#}
{% macro shop_hour(utc, time_zone='night.time_zone') -%}
  cast(extract(hour from {{ shop_time(utc, time_zone) }}) as bigint)
{%- endmacro %}

{#- The UTC time at which a day of the shop begins. -#}
{% macro shop_day_start(day, time_zone='time_zone') -%}
  ((cast({{ day }} as timestamp) at time zone {{ time_zone }}) at time zone 'UTC')
{%- endmacro %}

{#-
  Whether a UTC time tells an hour at all. Sources that know only the date deliver midnight UTC; an order at that very
  microsecond is rarer than such a source.
-#}
{% macro has_hour(utc) -%}
  (cast({{ utc }} as time) <> time '00:00:00')
{%- endmacro %}
