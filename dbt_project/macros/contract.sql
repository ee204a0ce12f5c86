{#-
    Contracts name Postgres's types: what dbt makes of them is translated here. Names are quoted, as
    they are wherever a macro writes them: `order` and `end` are columns of somebody's.
-#}
{% macro get_empty_schema_sql(columns) -%}
    select
    {%- for column in columns.values() %}
        cast(null as {{ engine_type(column.data_type) }}) as {{ adapter.quote(column.name) }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}


{% macro trino__get_table_columns_and_constraints() -%}
    (
    {%- for column in model.columns.values() %}
        {{ adapter.quote(column.name) }} {{ engine_type(column.data_type) }}{{ ',' if not loop.last }}
    {%- endfor %}
    )
{%- endmacro %}


{% macro default__get_column_names() -%} {{ quoted(model.columns.keys()) }} {%- endmacro %}


{#- What stages a merge is no table of the contract: it has `_deleted` as well. -#}
{% macro trino__create_table_as(temporary, relation, sql, on_exists=none) -%}
    {%- if temporary -%}
        create table {{ relation }} as {{ sql }}
    {%- else -%}
        {{ dbt.trino__create_table_as(temporary, relation, sql, on_exists or config.get('on_table_exists')) }}
    {%- endif -%}
{%- endmacro %}


{#- What Trino makes a table with: what is declared for Spark, so that either engine finds the same. -#}
{% macro properties(temporary=false) -%}
    {%- set declared, extra = config.get('tblproperties'), [] -%}
    {%- set own = ['format-version', 'write.parquet.compression-codec'] -%} {#- zstd, unless told -#}
    {%- for name, value in declared.items() if name not in own -%}
        {%- do extra.append("('" ~ name ~ "', '" ~ value ~ "')") -%}
    {%- endfor -%}
    with (
        format_version = {{ declared['format-version'] }},
        partitioning = cast(json '{{ tojson(config.get('partition_by') or []) }}' as array(varchar)),
        extra_properties = map_from_entries(array[{{ extra | join(', ') }}])
    )
{%- endmacro %}


{#- A hook after each run: the table that staged a merge which failed goes, or it would be published. -#}
{% macro drop_staged() -%}
    {%- for result in results if execute and result.status == 'error' and target.type == 'trino' -%}
        {%- set node = result.node -%}
        {%- set staged = api.Relation.create(node.database, node.schema, node.alias ~ '__dbt_tmp') -%}
        {%- do run_query('drop table if exists ' ~ staged) -%}
    {%- endfor -%}
{%- endmacro %}


{#- A hook before each build: a column that the contract has gained is added; none is dropped. -#}
{% macro add_declared_columns() -%}
    {%- if execute and is_incremental() -%}
        {%- set present = adapter.get_columns_in_relation(this) | map(attribute='name') | list -%}
        {%- for column in model.columns.values() if column.name not in present -%}
            {%- do run_query('alter table ' ~ this ~ ' add column ' ~ adapter.quote(column.name) ~ ' '
                ~ engine_type(column.data_type)) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}


{#- Which is all there is to do: what stages a merge has `_deleted`, and its table must not. -#}
{% macro process_schema_changes(on_schema_change, source_relation, target_relation) -%}
    {{- return(model.columns.keys() | list) -}}
{%- endmacro %}
