{#-
    One merge for both engines. A row of the source with `_deleted` true deletes its match; any
    other replaces it, if one of `changed_by` (a config; the position unless given) differs; so what is
    applied twice changes nothing. Where nothing would change nothing is committed.
-#}
{% macro spark__get_merge_sql(target, source, unique_key, dest_columns, incremental_predicates) -%}
    {%- do run_query('cache table ' ~ source) -%}
    {%- set key = unique_key if unique_key is string else unique_key[0] -%}
    {%- set among = among_staged(source, key) -%}
    {%- if among is none -%} select 'nothing to merge' as outcome
    {%- else -%} {{ merge_with_deletes(target, source, unique_key, (incremental_predicates or []) + among) }}
    {%- endif -%}
{%- endmacro %}

{% macro trino__get_merge_sql(target, source, unique_key, dest_columns, incremental_predicates) -%}
    {{ merge_with_deletes(target, source, unique_key, incremental_predicates or []) }}
{%- endmacro %}


{% macro merge_with_deletes(target, source, unique_key, predicates) -%}
    {%- set columns = model.columns.keys() | list -%}
    {%- set kept = config.get('merge_exclude_columns') or [] -%}
    {%- set keys = [unique_key] if unique_key is string else unique_key -%}
    {%- set match = predicates + [same_key(keys, 'source', 'target')] -%}
    {%- set changes = [] -%}
    {%- for column in config.get('changed_by') or ['_commit_lsn', '_ordinal'] -%}
        {%- set column = adapter.quote(column) -%}
        {%- do changes.append('source.' ~ column ~ ' is distinct from target.' ~ column) -%}
    {%- endfor -%}
    {%- if replay_from() is not none -%} {%- do changes.append('true') -%} {%- endif -%}
    {%- set changed = '(' ~ changes | join(' or ') ~ ')' -%}
    {%- set pending -%}
        select 1
        from {{ source }} as source
        left join {{ adapter.dispatch('held')(target, source, keys) }} as target
            on {{ match | join(' and ') }}
        where case
            when {{ quoted(keys[:1], 'target') }} is null then not source._deleted
            else source._deleted or {{ changed }}
        end
        limit 1
    {%- endset -%}
    {%- if run_query(pending) | length == 0 -%}
    select 'nothing to merge' as outcome
    {%- else -%}
    merge into {{ target }} as target
    using {{ source }} as source
    on {{ match | join(' and ') }}
    when matched and source._deleted then delete
    when matched and {{ changed }} then update set
        {%- for column in columns if column not in kept %}
        {{ adapter.quote(column) }} = source.{{ adapter.quote(column) }}{{ ',' if not loop.last }}
        {%- endfor %}
    when not matched and not source._deleted then insert
        ({{ quoted(columns) }})
    values
        ({{ quoted(columns, 'source') }})
    {%- endif -%}
{%- endmacro %}


{#- The rows of a target that a merge can be about. Spark is told their keys. -#}
{% macro spark__held(target, source, keys) -%} {{ target }} {%- endmacro %}

{% macro trino__held(target, source, keys) -%}
    (
        select held.* from {{ target }} as held
        where exists (select 1 from {{ source }} as source where {{ same_key(keys, 'source', 'held') }})
    )
{%- endmacro %}


{#-
    That a target's row has a value which is staged, by the values themselves where they are few:
    Spark would shuffle the whole target to find the rows that match, and in a subquery it does not
    know again what is kept at hand. (Trino finds out by itself.) None where nothing is staged.
-#}
{% macro among_staged(source, column, few=5000) -%}
    {%- set type = engine_type(model.columns[column].data_type) -%}
    {%- if type == 'binary' -%} {{- return([]) -}} {%- endif -%}
    {%- set staged -%}
        select distinct cast({{ quoted([column]) }} as string) from {{ source }}
        limit {{ few + 1 }}
    {%- endset -%}
    {%- set values = run_query(staged).columns[0].values() -%}
    {%- if values | length == 0 -%} {{- return(none) -}} {%- endif -%}
    {%- if values | length > few -%} {{- return([]) -}} {%- endif -%}
    {%- set literals = [] -%}
    {%- for value in values if value is not none -%} {%- do literals.append(literal(value, type)) -%} {%- endfor -%}
    {{- return([quoted([column], 'target') ~ ' in (' ~ (literals or ['null']) | join(', ') ~ ')']) -}}
{%- endmacro %}


{#- A value that Spark has written as text, as what it was. -#}
{% macro literal(value, type) -%}
    cast({{ text_literal(value) }} as {{ type }})
{%- endmacro %}


{#- How a mergeable select ends: a first build has nothing to delete, and its table no `_deleted`. -#}
{% macro from_merged(relation) -%}
    {%- if is_incremental() -%} , _deleted from {{ relation }}
    {%- else -%} from {{ relation }} where not _deleted
    {%- endif -%}
{%- endmacro %}
