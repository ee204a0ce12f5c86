{#-
    The data files of a table that `lake` does not have: what this branch has written. None where that
    may be all of it: they are many, `lake` has no such table, or this is `lake`; and where no gate
    follows that judges every row: a key that is new has never been tested.
-#}
{% macro files_written(relation, few=20) -%}
    {%- if not execute -%} {{- return(none) -}} {%- endif -%}
    {%- set published, branch = 'lake.' ~ relation.schema, env_var('LAKE_BRANCH', 'lake') -%}
    {%- if flags.INTROSPECT is false or branch == 'lake'
        or not env_var('LAKE_GATE_FOLLOWS', '')
        or not is_listed('show schemas from lake', relation.schema)
        or not is_listed('show tables from ' ~ published, relation.identifier) -%}
        {{- return(none) -}}
    {%- endif -%}
    {%- set new -%}
        select file_path from {{ files_of(branch ~ '.' ~ relation.schema, relation.identifier) }}
        where content = 0
        except
        select file_path from {{ files_of(published, relation.identifier) }}
        limit {{ few + 1 }}
    {%- endset -%}
    {%- set paths = run_query(new).columns[0].values() | list -%}
    {{- return(paths if paths | length <= few else none) -}}
{%- endmacro %}


{#- Whether a name is among what a statement lists. -#}
{% macro is_listed(statement, name) -%}
    {%- for row in run_query(statement) if name in row.values() -%} {{- return(true) -}} {%- endfor -%}
    {{- return(false) -}}
{%- endmacro %}


{#- The table of a table's files; and a row's file, by its path. -#}
{% macro files_of(schema, table) -%} {{ adapter.dispatch('files_of')(schema, table) }} {%- endmacro %}
{% macro spark__files_of(schema, table) -%} {{ schema }}.{{ table }}.files {%- endmacro %}
{% macro trino__files_of(schema, table) -%} {{ schema }}."{{ table }}$files" {%- endmacro %}

{% macro file_of_row() -%} {{ adapter.dispatch('file_of_row')() }} {%- endmacro %}
{% macro spark__file_of_row() -%} _file {%- endmacro %}
{% macro trino__file_of_row() -%} "$path" {%- endmacro %}
