{#- dbt's default snapshot materialization on Spark too: dbt-spark's takes keys of one column and needs views. -#}
{% materialization snapshot, adapter='spark' %}
    {{ return(materialization_snapshot_default()) }}
{% endmaterialization %}

{#-
    A snapshot continues from its last build; one in LAKE_REBUILT is created anew. Spark's relations have no
    database, and dbt leaves that field out of the model.
-#}
{% macro get_or_create_relation(database, schema, identifier, type) -%}
    {%- set named = database if target.type == 'trino' else none -%}
    {%- set found = dbt.default__get_or_create_relation(named, schema, identifier, type) -%}
    {{- return([false, found[1]] if is_rebuilt() else found) -}}
{%- endmacro %}

{% macro spark__snapshot_merge_sql(target, source, insert_cols) -%}
    {{ dbt.default__snapshot_merge_sql(target, source, insert_cols) }}
{%- endmacro %}


{#- Spark evaluates the staging view three times. Cached, all three read the same rows and timestamps. -#}
{% macro build_snapshot_staging_table(strategy, sql, target_relation) -%}
    {%- set staged = make_temp_relation(target_relation) -%}
    {%- do run_query(create_table_as(true, staged, snapshot_staging_table(strategy, sql, target_relation))) -%}
    {%- if target.type == 'spark' -%} {%- do run_query('cache table ' ~ staged) -%} {%- endif -%}
    {{- return(staged) -}}
{%- endmacro %}

{% macro spark__post_snapshot(staging_relation) -%}
    {%- do run_query('uncache table if exists ' ~ staging_relation) -%}
{%- endmacro %}


{#- The time of the build, in Iceberg's precision: microseconds. -#}
{% macro snapshot_get_time() -%} cast(current_timestamp as {{ engine_type('timestamptz') }}) {%- endmacro %}

{#- The hash of a version's key and time. Each text is prefixed by its length, so ('a|b', 'c') and ('a', 'b|c') differ. -#}
{% macro snapshot_hash_arguments(args) -%}
    {%- set type, texts = engine_type('text'), [] -%}
    {%- for arg in args -%}
        {%- set text = 'cast(' ~ arg ~ ' as ' ~ type ~ ')' -%}
        {%- do texts.append("coalesce(concat(cast(length(" ~ text ~ ") as " ~ type ~ "), ':', " ~ text ~ "), '')") -%}
    {%- endfor -%}
    {{ adapter.dispatch('md5_of')("concat('', " ~ texts | join(', ') ~ ')') }}
{%- endmacro %}
