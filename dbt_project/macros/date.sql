{#- The days since 1970 of an ISO date, a number; and the other way round, in SQL. -#}
{% macro days_of(date) -%}
    {%- set dates = modules.datetime.date -%}
    {{- return((dates.fromisoformat(date) - dates(1970, 1, 1)).days) -}}
{%- endmacro %}

{% macro from_days(value) -%} {{ adapter.dispatch('from_days')(value) }} {%- endmacro %}
{% macro spark__from_days(value) -%} date_from_unix_date({{ value }}) {%- endmacro %}
{% macro trino__from_days(value) -%} date_add('day', {{ value }}, date '1970-01-01') {%- endmacro %}
