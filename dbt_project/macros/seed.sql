{#-
    A seed is created anew by one statement, in the types that its `.yml` declares. `lake check` has
    validated each value against its type. The engine reads the rows from one JSON literal, which it parses
    faster than a VALUES list.
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


{#- The rows of the seed's CSV file, all columns as text: else dbt infers types from the values. -#}
{% macro load_rows() -%}
    {%- for name in model.columns -%}
        {%- do config.model.config.column_types.update({name: 'text'}) -%}
    {%- endfor -%}
    {{- return(load_agate_table()) -}}
{%- endmacro %}


{#- A query of these rows, with the declared types and column order. -#}
{% macro select_of(table) -%}
    {%- set rows = [] -%}
    {%- for row in table.rows -%} {%- do rows.append(row.values()) -%} {%- endfor -%}
    select
    {%- for column in model.columns.values() %}
        {%- set text = 'element_at(r, ' ~ (table.column_names.index(column.name) + 1) ~ ')' %}
        {{ typed(text, canonical_type(column.data_type)) }} as {{ adapter.quote(column.name) }}{{ ',' if not loop.last }}
    {%- endfor %}
    from {{ adapter.dispatch('rows_in')(text_literal(tojson(rows))) }}
{%- endmacro %}

{% macro spark__rows_in(json) -%}
    (select explode(from_json({{ json }}, 'array<array<string>>'))) as listed (r)
{%- endmacro %}
{% macro trino__rows_in(json) -%}
    unnest(cast(json_parse({{ json }}) as array(array(varchar)))) as listed (r)
{%- endmacro %}
