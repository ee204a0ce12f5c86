{#-
    The commit LSN up to which a table's changes can be read as they are declared. It is that of the last
    whole transaction; or of the last one before a change came without a declared column, or with it in
    another type, unless a newer snapshot holds it. Changes of this table alone then wait in bronze.
    `lake/shapes.py` has the same rule in Python, for `lake status` to name the table.
-#}
{% macro readable_lsn(declared, snapshot) -%}
    {%- set ends = [complete_lsn() + 1] -%}
    {%- for shape in shapes() | selectattr('source_table', 'equalto', declared.source_table) -%}
        {%- if (loop.last or shape.commit_lsn >= snapshot) and not is_readable(declared, shape.columns) -%}
            {%- do ends.append([shape.commit_lsn, snapshot] | max) -%}
        {%- endif -%}
    {%- endfor -%}
    {{- return((ends | min) - 1) -}}
{%- endmacro %}


{#- Every shape that a captured table took on, in order; asked for once in an invocation. -#}
{% macro shapes() -%}
    {%- if not execute -%} {{- return([]) -}} {%- endif -%}
    {%- if 'shapes' not in graph and flags.INTROSPECT is not false -%}
        {%- set found = [] -%}
        {%- set query -%}
            select source_table, commit_lsn, columns
            from {{ source('bronze', 'schema_changes') }}
            where commit_lsn <= {{ complete_lsn() }}
            order by commit_lsn, ordinal
        {%- endset -%}
        {%- for source_table, commit_lsn, columns in run_query(query).rows -%}
            {%- do found.append({
                'source_table': source_table, 'commit_lsn': commit_lsn | int, 'columns': fromjson(columns),
            }) -%}
        {%- endfor -%}
        {%- do graph.update(shapes=found) -%}
    {%- endif -%}
    {{- return(graph.get('shapes', [])) -}}
{%- endmacro %}


{#- Whether changes with these columns have every declared one, in its type or in one that is text here. -#}
{% macro is_readable(declared, columns) -%}
    {%- set types = {} -%}
    {%- for column in columns -%} {%- do types.update({column.name: column.type}) -%} {%- endfor -%}
    {%- set lacking = [] -%}
    {%- for column in declared.columns -%}
        {%- set there = types.get(source_name(column)) -%}
        {%- set is_text = engine_type(column.type) == engine_type('text') -%}
        {%- if there is none or not (is_text or canonical_type(there) == column.type) -%}
            {%- do lacking.append(column.name) -%}
        {%- endif -%}
    {%- endfor -%}
    {{- return(not lacking) -}}
{%- endmacro %}
