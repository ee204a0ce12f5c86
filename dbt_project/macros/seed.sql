{#-
    A seed is a table of the types that its `.yml` declares, made at once and anew. `lake check` has found
    each value to be one of its type. Its rows are one text to the engine, of JSON, which takes it less
    time than as many values of SQL.
-#}
{% materialization seed, default %}
    {%- set target_relation = this.incorporate(type='table') -%}
    {{ run_hooks(pre_hooks) }}
    {%- set rows = load_rows() -%}
    {% call statement('main') -%}
        {{ create_table_as(false, target_relation, select_of(rows)) }}
    {%- endcall %}
    {% do store_result('agate_table', response='OK', agate_table=rows) %}
    {{ run_hooks(post_hooks) }}
    {% do persist_docs(target_relation, model) %}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}


{#- The rows of this seed's file, as texts: dbt would guess types. -#}
{% macro load_rows() -%}
    {%- for name in model.columns -%}
        {%- do config.model.config.column_types.update({name: 'text'}) -%}
    {%- endfor -%}
    {{- return(load_agate_table()) -}}
{%- endmacro %}


{#- Rows of texts as a query, in the types and the order that are declared. -#}
{% macro select_of(table) -%}
    {%- set rows = [] -%}
    {%- for row in table.rows -%} {%- do rows.append(row.values()) -%} {%- endfor -%}
    select
    {%- for column in model.columns.values() %}
        {%- set text = 'r[' ~ adapter.dispatch('position')(table.column_names.index(column.name)) ~ ']' %}
        {{ typed(text, canonical_type(column.data_type)) }} as {{ adapter.quote(column.name) }}{{ ',' if not loop.last }}
    {%- endfor %}
    from {{ adapter.dispatch('rows_in')(text_literal(tojson(rows))) }}
{%- endmacro %}

{% macro spark__position(index) -%} {{ index }} {%- endmacro %}
{% macro trino__position(index) -%} {{ index + 1 }} {%- endmacro %}

{% macro spark__rows_in(json) -%}
    (select explode(from_json({{ json }}, 'array<array<string>>'))) as listed (r)
{%- endmacro %}
{% macro trino__rows_in(json) -%}
    unnest(cast(json_parse({{ json }}) as array(array(varchar)))) as listed (r)
{%- endmacro %}
