{#- What dbt-spark does slowly, or by halves, on an Iceberg catalog. -#}

{#- One query instead of one for each table: every table of the catalog is Iceberg's. -#}
{% macro spark__list_relations_without_caching(schema_relation) -%}
    {%- set relations = [] -%}
    {%- set offline = flags.INTROSPECT is false -%}
    {%- for row in ([] if offline else run_query('show tables in ' ~ schema_relation.schema)) -%}
        {%- do relations.append([row[0], row[1], row[2], 'Type: TABLE\nProvider: iceberg\n']) -%}
    {%- endfor -%}
    {{- return(relations) -}}
{%- endmacro %}


{#- A full refresh finds no table, so replaces it at once instead of dropping it first. -#}
{% macro load_relation(relation) -%}
    {%- if target.type == 'spark' and should_full_refresh() -%} {{- return(none) -}} {%- endif -%}
    {{- return(load_cached_relation(relation)) -}}
{%- endmacro %}


{#-
    A merge reads what it is staged in twice, and plans by its size; on Spark that is a view, which is
    kept at hand meanwhile. A hook after each model lets it go.
-#}
{% macro uncache_staged() -%}
    {%- if target.type == 'spark' and is_incremental() -%}
    uncache table if exists {{ make_temp_relation(this) }}
    {%- endif -%}
{%- endmacro %}
