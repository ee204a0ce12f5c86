{#-
    A change's JSON, typed. First as JSON carries a value (`wire_type`), then as it was declared
    (`from_wire`): decimals travel as text, dates as days, times as ISO text or microseconds.
    A declared column that the envelope lacks is null; so is a value that its type can't hold.
-#}
{% macro wire_type(type) -%}
    {%- set wires = {
        'smallint': 'integer', 'integer': 'integer', 'bigint': 'bigint', 'boolean': 'boolean',
        'real': 'double precision', 'double precision': 'double precision', 'date': 'integer',
        'timestamp without time zone': 'bigint',
    } -%}
    {{- engine_type(wires.get(type, 'text')) -}}
{%- endmacro %}


{% macro from_wire(value, type) -%}
    {%- if type == 'date' -%} {{ from_days(value) }}
    {%- elif type == 'timestamp without time zone' -%} {{ from_microseconds(value) }}
    {%- elif type == 'timestamp with time zone' -%} {{ from_iso(value) }}
    {%- elif type == 'bytea' -%} {{ from_base64(value) }}
    {%- elif engine_type(type) == wire_type(type) -%} {{ value }}
    {%- else -%} try_cast({{ value }} as {{ engine_type(type) }})
    {%- endif -%}
{%- endmacro %}


{#- The envelope as one row: `op`, and both images of the declared columns. -#}
{% macro typed_envelope(envelope, columns) -%}
    {{ adapter.dispatch('typed_envelope')(envelope, wire_fields(columns)) }}
{%- endmacro %}

{% macro spark__typed_envelope(envelope, fields) -%}
    from_json({{ envelope }}, 'op string, before struct<{{ fields }}>, after struct<{{ fields }}>')
{%- endmacro %}

{% macro trino__typed_envelope(envelope, fields) -%}
    cast(json_parse({{ envelope }}) as row(op varchar, before row({{ fields }}), after row({{ fields }})))
{%- endmacro %}


{% macro wire_fields(columns) -%}
    {%- for column in columns -%}
        {{ adapter.quote(column.name) }} {{ wire_type(column.type) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{#- The days since 1970 of an ISO date, a number; and the other way round, in SQL. -#}
{% macro days_of(date) -%}
    {%- set dates = modules.datetime.date -%}
    {{- return((dates.fromisoformat(date) - dates(1970, 1, 1)).days) -}}
{%- endmacro %}

{% macro from_days(value) -%} {{ adapter.dispatch('from_days')(value) }} {%- endmacro %}
{% macro spark__from_days(value) -%} date_from_unix_date({{ value }}) {%- endmacro %}
{% macro trino__from_days(value) -%} date_add('day', {{ value }}, date '1970-01-01') {%- endmacro %}

{% macro from_microseconds(value) -%} {{ adapter.dispatch('from_microseconds')(value) }} {%- endmacro %}
{% macro spark__from_microseconds(value) -%}
    cast(timestamp_micros({{ value }}) as timestamp_ntz)
{%- endmacro %}
{% macro trino__from_microseconds(value) -%}
    cast(from_unixtime_nanos({{ value }} * 1000) at time zone 'UTC' as timestamp(6))
{%- endmacro %}

{% macro from_iso(value) -%} {{ adapter.dispatch('from_iso')(value) }} {%- endmacro %}
{% macro spark__from_iso(value) -%} try_cast({{ value }} as timestamp) {%- endmacro %}
{% macro trino__from_iso(value) -%}
    cast(try(from_iso8601_timestamp_nanos({{ value }})) as timestamp(6) with time zone)
{%- endmacro %}

{% macro from_base64(value) -%} {{ adapter.dispatch('from_base64')(value) }} {%- endmacro %}
{% macro spark__from_base64(value) -%} unbase64({{ value }}) {%- endmacro %}
{% macro trino__from_base64(value) -%} from_base64({{ value }}) {%- endmacro %}
