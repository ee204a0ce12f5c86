{#-
    Types are declared in Postgres's words, in sources and in contracts; here they become an
    engine's. What has no exact counterpart is text, as in bronze.
-#}
{% macro canonical_type(declared) -%}
    {%- set aliases = {
        'int2': 'smallint', 'int': 'integer', 'int4': 'integer', 'int8': 'bigint',
        'float4': 'real', 'float8': 'double precision', 'bool': 'boolean',
        'timestamp': 'timestamp without time zone', 'timestamptz': 'timestamp with time zone',
    } -%}
    {%- set spaced = modules.re.sub('[ \n\t]+', ' ', declared.strip() | lower) -%}
    {%- set tight = modules.re.sub(' ?([(,)]) ?', '\\1', spaced) -%}
    {%- set tight = modules.re.sub('^(time[a-z]*)[(][0-9][)] ?', '\\1 ', tight) | trim -%} {#- as without its precision -#}
    {%- set tight = modules.re.sub('^(numeric|decimal)[(]([0-9]+)[)]$', '\\1(\\2,0)', tight) -%}
    {{- aliases.get(tight, tight) | replace('decimal(', 'numeric(') -}}
{%- endmacro %}


{#- A declared type as the engine of this run writes it. -#}
{% macro engine_type(declared) -%}
    {%- set type = canonical_type(declared) -%}
    {%- set decimal = modules.re.fullmatch('numeric[(]([0-9]+),([0-9]+)[)]', type) -%}
    {%- if decimal and decimal.group(2) | int <= decimal.group(1) | int <= 38 -%}
        {{- type | replace('numeric', 'decimal') -}}
    {%- else -%}
        {%- set types = fromjson(engine_types()) -%}
        {{- types.get(type, types['text']) -}}
    {%- endif -%}
{%- endmacro %}


{% macro engine_types() -%}
    {{ adapter.dispatch('engine_types')() }}
{%- endmacro %}

{% macro spark__engine_types() -%}
    {
        "smallint": "int", "integer": "int", "bigint": "bigint", "boolean": "boolean",
        "real": "float", "double precision": "double", "date": "date", "bytea": "binary",
        "timestamp without time zone": "timestamp_ntz", "timestamp with time zone": "timestamp",
        "text": "string"
    }
{%- endmacro %}

{% macro trino__engine_types() -%}
    {
        "smallint": "integer", "integer": "integer", "bigint": "bigint", "boolean": "boolean",
        "real": "real", "double precision": "double", "date": "date", "bytea": "varbinary",
        "timestamp without time zone": "timestamp(6)",
        "timestamp with time zone": "timestamp(6) with time zone", "text": "varchar"
    }
{%- endmacro %}
