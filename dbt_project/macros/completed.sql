{#-
    The changelog with what only the versions before can say. In the order of positions, a value that a
    version left out is the last one that its key had; a version with a new key takes it from the version
    that ended the old key, at the same position. Last, a row that is there when its table is truncated
    is deleted there. `known` has the versions that are not new.
-#}
{% macro completed_rows(table, since, snapshot, known, kinds, whole_deletes) -%}
    {%- set declared = declared_table(table) -%}
    {%- set moves = longest_move(declared, since, snapshot) if 'unchanged_move' in kinds else 0 -%}
    {%- set truncated, whole = 'truncate' in kinds, 'not ' ~ has_left_out() -%}
    {%- set first = not (known or truncated) -%} {#- a first build: most rows are whole, and alone with their key -#}
    with landed as (
        {{ landed_rows(table, since, snapshot, known, kinds, boxed=true, whole_deletes=whole_deletes) }}
    ),

    moved_0 as (
        select
            landed.*,
            true as _is_new
        from landed
        {{ 'where ' ~ has_company('landed', declared.key, whole) if first }}
        {%- if known %}
        union all
        select
            {%- for column in declared.columns %}
            {{ box_of(adapter.quote(column.name), column, declared, true) }} as {{ adapter.quote(column.name) }},
            {%- endfor %}
            cast(null as {{ engine_type('text') }}) as _op,
            _commit_lsn,
            _ordinal,
            cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
            cast(null as {{ engine_type('timestamptz') }}) as _ingested_at
            {{- nothing_left_out() }},
            false as _is_new
        from {{ known }} as known
        {{ 'where ' ~ has_company('landed', declared.key, whole, of='known') if not truncated }}
        {%- endif %}
    ),
    {% for n in range(moves) %}
    moved_{{ n + 1 }} as (
        {{ moved(declared, 'moved_' ~ n) }}
    ),
    {% endfor %}
    completed as (
        select
            {%- for column in declared.columns %}
            {{ adapter.quote(column.name) if column.name in declared.key else carried(column, declared) }} as {{ adapter.quote(column.name) }},
            {%- endfor %}
            {{ stamps() }},
            _is_new
        from moved_{{ moves }}
    )

    select
        {{ unboxed(declared) }},
        {{ stamps() }}
    from completed
    where _is_new
    {%- if first %}
    union all
    select
        {{ unboxed(declared) }},
        {{ stamps() }}
    from landed
    where not {{ has_company('landed', declared.key, whole) }}
    {%- endif %}
    {%- if truncated %}
    union all
    {{ truncated_rows(declared, since, snapshot) }}
    {%- endif %}
{%- endmacro %}


{#- The last value of a column that a version's key had, in a box. -#}
{% macro carried(column, declared) -%}
    last_value({{ adapter.quote(column.name) }}) ignore nulls over (
        partition by {{ quoted(declared.key) }} order by _commit_lsn, _ordinal, _is_new
        rows between unbounded preceding and current row
    )
{%- endmacro %}


{#- The versions of a relation; those with a new key have the values that the old key had. -#}
{% macro moved(declared, relation) -%}
    {%- set values = declared.columns | rejectattr('name', 'in', declared.key) | list -%}
    {%- set in_place -%}
        partition by
            _is_move,
            case when _is_move then _commit_lsn end,
            case when _is_move then _ordinal end
            {%- for name in declared.key %},
            case when not _is_move then {{ adapter.quote(name) }} end
            {%- endfor %}
        order by _op
    {%- endset -%}
    select
        {{ quoted(declared.key) }},
        {%- for column in values %}
        case
            when _is_move and _op = 'u' and {{ is_among(column, '_left_out') }}
                then first_value(_carried_{{ loop.index }}) over ({{ in_place }})
            else {{ adapter.quote(column.name) }}
        end as {{ adapter.quote(column.name) }},
        {%- endfor %}
        {{ stamps() }},
        _left_out,
        _is_move,
        _is_new
    from (
        select
            *,
            {%- for column in values %}
            {{ carried(column, declared) }} as _carried_{{ loop.index }}{{ ',' if not loop.last }}
            {%- endfor %}
        from {{ relation }}
    ) as carried
{%- endmacro %}


{#-
    How often, at most, one row got another key and left values out, among the changes since a watermark:
    so often its values are to be moved.
-#}
{% macro longest_move(declared, since, snapshot, known=1) -%}
    {%- set moves -%}
        select
            {%- for column in declared.columns if column.name in declared.key %}
            {{ value_in('image', column) }} as new_{{ loop.index }},
            {{ value_in('old_image', column) }} as old_{{ loop.index }},
            {%- endfor %}
            _commit_lsn,
            _ordinal
        from ({{ images(declared, since, snapshot, "op = 'u' and before is not null and unchanged is not null") }}) as images
        where {{ is_move(declared) }}
    {%- endset -%}
    {%- set longer -%}
        with moves as (
            {{ moves }}
        )

        select max(1)
        from moves as move_0
        {%- for n in range(known) %}
        inner join moves as move_{{ n + 1 }}
            on
                (move_{{ n }}._commit_lsn, move_{{ n }}._ordinal) < (move_{{ n + 1 }}._commit_lsn, move_{{ n + 1 }}._ordinal)
                {%- for name in declared.key %}
                and move_{{ n }}.new_{{ loop.index }} = move_{{ n + 1 }}.old_{{ loop.index }}
                {%- endfor %}
        {%- endfor %}
    {%- endset -%}
    {{- return(longest_move(declared, since, snapshot, known + 1) if scalar(longer, 0) else known) -}}
{%- endmacro %}


{#- A delete for each row that is there when its table is truncated: its version before is followed by no other. -#}
{% macro truncated_rows(declared, since, snapshot) -%}
    {%- set in_order = 'over (partition by ' ~ quoted(declared.key) ~ ' order by _commit_lsn, _ordinal, _is_new)' -%}
    select
        {{ unboxed(declared) }},
        'd' as _op,
        truncates.commit_lsn as _commit_lsn,
        truncates.ordinal as _ordinal,
        truncates.committed_at as _committed_at,
        truncates.ingested_at as _ingested_at
    from (
        select
            *,
            lead(_commit_lsn) {{ in_order }} as _next_commit_lsn,
            lead(_ordinal) {{ in_order }} as _next_ordinal
        from completed
    ) as versions
    inner join (
        select
            commit_lsn,
            ordinal,
            committed_at,
            ingested_at,
            coalesce(lag(commit_lsn) over (order by commit_lsn, ordinal), -1) as after_commit_lsn,
            coalesce(lag(ordinal) over (order by commit_lsn, ordinal), 0) as after_ordinal
        from {{ source('bronze', 'changes') }}
        where
            {{ landed_since(declared, since, snapshot) }}
            and op = 't'
    ) as truncates
        on
            (_commit_lsn, _ordinal) > (after_commit_lsn, after_ordinal)
            and (_commit_lsn, _ordinal) < (commit_lsn, ordinal)
    where
        coalesce(_op, '') <> 'd'
        and (
            _next_commit_lsn is null
            or (_next_commit_lsn, _next_ordinal) > (commit_lsn, ordinal)
        )
{%- endmacro %}


{#- A value in a box, which may be null where the value is not the version's own; those of the key have none. -#}
{% macro box_of(value, column, declared, boxed, left_out='false') -%}
    {%- if not boxed or column.name in declared.key -%} {{ value }}
    {%- else -%} case when not ({{ left_out }}) then {{ adapter.dispatch('box')(value, engine_type(column.type)) }} end
    {%- endif -%}
{%- endmacro %}
{% macro spark__box(value, type) -%} named_struct('value', cast({{ value }} as {{ type }})) {%- endmacro %}
{% macro trino__box(value, type) -%} cast(row({{ value }}) as row(value {{ type }})) {%- endmacro %}

{% macro unboxed(declared) -%}
    {%- for column in declared.columns -%}
        {%- set name = adapter.quote(column.name) -%}
        {{ name if column.name in declared.key else name ~ '.value as ' ~ name }}{{ ',\n        ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{#- Whether a version left values out; and the end of a select of versions that left none out. -#}
{% macro has_left_out() -%} coalesce(cardinality(_left_out) > 0, false) {%- endmacro %}

{% macro nothing_left_out() -%}
    , cast(null as {{ adapter.dispatch('names_type')() }}) as _left_out, false as _is_move
{%- endmacro %}
{% macro spark__names_type() -%} array<string> {%- endmacro %}
{% macro trino__names_type() -%} array(varchar) {%- endmacro %}


{#- What the changelog says of each version beside its values. -#}
{% macro stamps(op='_op') -%}
    {{ op if op == '_op' else op ~ ' as _op' }},
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
{%- endmacro %}
