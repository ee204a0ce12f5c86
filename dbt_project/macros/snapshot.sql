{#- dbt's snapshots, told alike to both engines. dbt-spark's own knows keys of one column, and views. -#}
{% materialization snapshot, adapter='spark' %}
    {{ return(materialization_snapshot_default()) }}
{% endmaterialization %}

{#-
    A snapshot goes on where it ended, but for one that nobody knows the start of: it is made anew. A table
    of Spark's has no database, and the model then does not have that word.
-#}
{% macro get_or_create_relation(database, schema, identifier, type) -%}
    {%- set named = database if target.type == 'trino' else none -%}
    {%- set found = dbt.default__get_or_create_relation(named, schema, identifier, type) -%}
    {{- return([false, found[1]] if is_rebuilt() else found) -}}
{%- endmacro %}

{% macro spark__snapshot_merge_sql(target, source, insert_cols) -%}
    {{ dbt.default__snapshot_merge_sql(target, source, insert_cols) }}
{%- endmacro %}


{#- Spark reads what is staged three times: it is kept at hand meanwhile, and so of one moment. -#}
{% macro build_snapshot_staging_table(strategy, sql, target_relation) -%}
    {%- set staged = make_temp_relation(target_relation) -%}
    {%- do run_query(create_table_as(true, staged, snapshot_staging_table(strategy, sql, target_relation))) -%}
    {%- if target.type == 'spark' -%} {%- do run_query('cache table ' ~ staged) -%} {%- endif -%}
    {{- return(staged) -}}
{%- endmacro %}

{% macro spark__post_snapshot(staging_relation) -%}
    {%- do run_query('uncache table if exists ' ~ staging_relation) -%}
{%- endmacro %}


{#- Iceberg's times are of microseconds; and a text is one of any length. -#}
{% macro snapshot_get_time() -%} cast(current_timestamp as {{ engine_type('timestamptz') }}) {%- endmacro %}

{#- Of what tells a version apart. Texts have their lengths before them: of several, none is like others. -#}
{% macro snapshot_hash_arguments(args) -%}
    {%- set type, texts = engine_type('text'), [] -%}
    {%- for arg in args -%}
        {%- set text = 'cast(' ~ arg ~ ' as ' ~ type ~ ')' -%}
        {%- do texts.append("coalesce(concat(cast(length(" ~ text ~ ") as " ~ type ~ "), ':', " ~ text ~ "), '')") -%}
    {%- endfor -%}
    {{ adapter.dispatch('md5_of')("concat('', " ~ texts | join(', ') ~ ')') }}
{%- endmacro %}
