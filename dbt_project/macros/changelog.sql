{#-
    Every version of a declared source table's rows, typed: sort by `_commit_lsn`, then `_ordinal`. The
    newest bulk snapshot comes first, as operation 'r', then the changes since it: 'c', 'u', and 'd' with
    the row as it was before. A change of a key is two versions at one position, 'd' of the old key and
    'u' of the new one. Transactions that bronze does not hold whole are left out.

    since: a watermark, only what is new since then (`is_new`); snapshot: the newest one's LSN, if known.

    What only the versions before can say is taken from those that are new too, and from `known`, a
    relation of the rows as they were at `since`: the values that an update left out because they did not
    change, the values of a delete that has its key alone, the rows that a TRUNCATE deleted. `completed`
    says which versions are completed so: 'all'; 'current', all but deletes; or 'none', which leaves the
    rows that a TRUNCATE deleted out. Rows of `known` that a new snapshot no longer has are deleted at its
    position: they went while nobody watched.
-#}
{% macro changelog(table, since=-1, snapshot=none, known=none, completed='all') -%}
    {%- if execute and not declared_table(table).key -%}
        {%- do exceptions.raise_compiler_error(table ~ ' has no key, so there is no changelog of it: see `multiset`') -%}
    {%- endif -%}
    {%- set taken = newest_snapshot(table) if snapshot is none else snapshot -%}
    {%- set kinds = change_kinds(table, since, taken) -%}
    {%- set incomplete = {
        'all': ['truncate', 'unchanged', 'key_only'], 'current': ['truncate', 'unchanged'], 'none': [],
    }[completed] -%}
    {%- if incomplete | select('in', kinds) | list -%}
    {{ completed_rows(table, since, taken, known, kinds, completed == 'all') }}
    {%- else -%}
    {{ landed_rows(table, since, taken, known, kinds) }}
    {%- endif -%}
{%- endmacro %}


{#-
    What there is among a table's changes since a watermark that takes more than to read them: 'truncate';
    'old_image', an update with an image of the row before, whose key may be another; 'unchanged', one
    that left values out; 'unchanged_move', one that may be both; 'key_only', a delete with its key alone.
    Ends the build where a TRUNCATE is to halt it.
-#}
{% macro change_kinds(table, since, snapshot) -%}
    {%- if not execute or flags.INTROSPECT is false -%} {{- return([]) -}} {%- endif -%}
    {%- set declared = declared_table(table) -%}
    {%- set query -%}
        select
            max(case when op = 't' then 1 else 0 end)
            + max(case when op = 'u' and before is not null then 2 else 0 end)
            + max(case when unchanged is not null then 4 else 0 end)
            + max(case when unchanged is not null and before is not null then 8 else 0 end)
            + max(case when op = 'd' and cardinality({{ lacking(image_of('before'), declared) }}) > 0 then 16 else 0 end)
        from {{ source('bronze', 'changes') }}
        where {{ landed_since(declared, since, snapshot) }}
    {%- endset -%}
    {%- set bits, kinds = landed_scalar(query, 0), [] -%}
    {%- for kind in ['truncate', 'old_image', 'unchanged', 'unchanged_move', 'key_only'] -%}
        {%- if (bits // 2 ** loop.index0) % 2 -%} {%- do kinds.append(kind) -%} {%- endif -%}
    {%- endfor -%}
    {%- if 'truncate' in kinds and declared.truncate == 'halt' -%}
        {%- do exceptions.raise_compiler_error(declared.source_table
            ~ ' was truncated: run `lake ingest --again ' ~ declared.source_table ~ '`') -%}
    {%- endif -%}
    {{- return(kinds | reject('equalto', 'truncate') | list if declared.truncate == 'ignore' else kinds) -}}
{%- endmacro %}


{#- Of bronze.changes: the changes of a table past the watermark and the snapshot, of whole transactions. -#}
{% macro landed_since(declared, since, snapshot) -%}
    source_table = {{ text_literal(declared.source_table) }}
    and commit_lsn > {{ [since, snapshot - 1] | max }}
    and commit_lsn <= {{ readable_lsn(declared, snapshot) }}
{%- endmacro %}


{#-
    The changelog of what was landed. `boxed`, each value but those of the key is in a box, and the box
    is null where the change left the value out: in updates, and, if `whole_deletes`, in deletes.
    `_left_out` has the names of those columns then, and `_is_move` marks both versions of a change of
    the key. Without its key, which a type may not hold, a row is left out; so is the row without any
    value that stands for a snapshot of no rows.
-#}
{% macro landed_rows(table, since, snapshot, known, kinds, boxed=false, whole_deletes=true) -%}
    {%- set declared = declared_table(table) -%}
    select
        {%- for column in declared.columns %}
        {{ box_of(adapter.quote(column.name), column, declared, boxed) }} as {{ adapter.quote(column.name) }},
        {%- endfor %}
        'r' as _op,
        _snapshot_lsn - 1 as _commit_lsn,
        cast(0 as bigint) as _ordinal,
        cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
        _ingested_at
        {{- nothing_left_out() if boxed }}
    from {{ source('bronze', table) }}
    where
        _snapshot_lsn = {{ snapshot }}
        and _snapshot_lsn - 1 > {{ since }}
        {%- for column in declared.columns if column.name in declared.key %}
        and {{ adapter.quote(column.name) }} is not null
        {%- endfor %}
    union all
    {{ image_rows(declared, since, snapshot, "op in ('c', 'u', 'd')", 'image', boxed, whole_deletes) }}
    {%- if 'old_image' in kinds %}
    union all -- the old keys of rows that have another key now
    {{ image_rows(declared, since, snapshot, "op = 'u' and before is not null", 'old_image', boxed, true) }}
        and {{ is_move(declared) }}
    {%- endif %}
    {{- vanished(table, since, snapshot, known, boxed) if known }}
{%- endmacro %}


{#- A version for each change that a condition holds of: of the 'image' after it, or of the 'old_image' of an update. -#}
{% macro image_rows(declared, since, snapshot, condition, image, boxed, whole_deletes) -%}
    {%- set read = images(declared, since, snapshot, condition) -%}
    {%- set move = ' and not _is_move' if image == 'image' else '' -%}
    select
        {%- for column in declared.columns %}
        {%- set may_lack_key = boxed and image == 'image' and column.name in declared.key -%}
        {%- set value = key_in_image(column) if may_lack_key else value_in(image, column) %}
        {{ box_of(value, column, declared, boxed, is_among(column, '_left_out') ~ move) }} as {{ adapter.quote(column.name) }},
        {%- endfor %}
        {{ stamps('_op' if image == 'image' else "'d'") }}
        {{- ', _left_out, _is_move' if boxed }}
    from ({{ marked(declared, read, image, whole_deletes) if boxed else read }}) as images
    where
        true
        {%- for column in declared.columns if column.name in declared.key and may_be_unheld(column.type) %}
        and {{ value_in(image, column) }} is not null
        {%- endfor %}
{%- endmacro %}


{#- The changes that a condition holds of, with their images. -#}
{% macro images(declared, since, snapshot, condition) -%}
        select
            op as _op,
            {{ image_of('coalesce(after, before)') }} as image,
            {{ image_of("case when op = 'u' then before end") }} as old_image,
            unchanged as _unchanged,
            commit_lsn as _commit_lsn,
            ordinal as _ordinal,
            committed_at as _committed_at,
            ingested_at as _ingested_at
        from {{ source('bronze', 'changes') }}
        where
            {{ landed_since(declared, since, snapshot) }}
            and {{ condition }}
{%- endmacro %}


{#- Images, with the names of the columns that each left out, and whether it is of a change of the key. -#}
{% macro marked(declared, images, image, whole_deletes) -%}
        select
            images.*,
            {{ is_move(declared) }} as _is_move,
            case
                when {{ "_op = 'd'" if image == 'image' else 'true' }}
                    then {{ lacking(image, declared) if whole_deletes else 'null' }}
                else {{ names_in('_unchanged') }}
            end as _left_out
        from (
            {{ images }}
        ) as images
{%- endmacro %}


{#- Whether an update gave its row another key; and a column of the key, which it may have left out. -#}
{% macro key_in_image(column) -%}
    coalesce({{ value_in('image', column) }}, {{ value_in('old_image', column) }})
{%- endmacro %}

{% macro is_move(declared) -%}
    (
        old_image is not null
        and (
            {%- for column in declared.columns if column.name in declared.key %}
            {{ 'or ' if not loop.first }}{{ key_in_image(column) }} is distinct from {{ value_in('old_image', column) }}
            {%- endfor %}
        )
    )
{%- endmacro %}


{#-
    The rows that a new snapshot no longer has, as deletes at its position; to be put after a select. It
    is nothing where no row is older than the snapshot, which metadata tells: engines would read the
    whole snapshot to find that out.
-#}
{% macro vanished(table, since, snapshot, known, boxed) -%}
    {%- set bulk, declared = source('bronze', table), declared_table(table) -%}
    {%- set older = '_commit_lsn < ' ~ (snapshot - 1) -%}
    {%- if since < snapshot - 1 and scalar('select max(1) from ' ~ known ~ ' as known where ' ~ older, 0) %}
    union all
    select
        {%- for column in declared.columns %}
        {{ box_of(adapter.quote(column.name), column, declared, boxed) }} as {{ adapter.quote(column.name) }},
        {%- endfor %}
        'd' as _op,
        cast({{ snapshot - 1 }} as bigint) as _commit_lsn,
        cast(0 as bigint) as _ordinal,
        cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
        (select max(_ingested_at) from {{ bulk }} where _snapshot_lsn = {{ snapshot }}) as _ingested_at
        {{- nothing_left_out() if boxed }}
    from {{ known }} as known
    where
        {{ older }}
        and not exists (
            select 1 from {{ bulk }} as held
            where
                held._snapshot_lsn = {{ snapshot }}
                and {{ same_key(declared.key, 'held', 'known') }}
        )
    {%- endif -%}
{%- endmacro %}


{#-
    What the project declares of a source table: `source_table`, `key`, `truncate` (what a TRUNCATE does
    in silver: apply, ignore or halt), and `columns` in order.
-#}
{% macro declared_table(name) -%}
    {%- set table = {'source_table': name, 'key': [], 'columns': []} -%}
    {%- set nodes = graph.sources.values() if execute else [] -%}
    {%- for node in nodes if node.source_name == 'bronze' and node.name == name -%}
        {%- set meta = node.config.meta -%}
        {%- do table.update(source_table=meta.source_table, key=meta.key, truncate=meta.get('truncate', 'apply')) -%}
        {%- for column in node.columns.values() -%}
            {%- do table.columns.append({
                'name': column.name,
                'type': canonical_type(column.data_type),
                'source_name': column.config.meta.get('source_column', column.name),
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{- return(table) -}}
{%- endmacro %}


{#- The names of a declared table's columns, comma-separated, in order. -#}
{% macro columns_of(table, without=[]) -%}
    {{- names(declared_table(table).columns | rejectattr('name', 'in', without) | list) -}}
{%- endmacro %}

{% macro names(columns) -%}
    {%- for column in columns -%}
        {{ adapter.quote(column.name) }}{{ ',\n        ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{#- The names of columns as SQL, of a relation where one is named; and that two agree in them. -#}
{% macro quoted(columns, of=none) -%}
    {%- for column in columns -%}
        {{ of ~ '.' if of }}{{ adapter.quote(column) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{% macro same_key(columns, one, other) -%}
    {%- for column in columns -%}
        {%- set a, b = one ~ '.' ~ adapter.quote(column), other ~ '.' ~ adapter.quote(column) -%}
        {%- set declared = (model.columns or {}).get(column, {}).get('data_type') or 'text' -%}
        {%- set is_float = canonical_type(declared) in ('real', 'double precision') -%}
        {{ adapter.dispatch('same_float')(a, b) if is_float else a ~ ' = ' ~ b }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
{% macro spark__same_float(one, other) -%} {{ one }} = {{ other }} {%- endmacro %}
{% macro trino__same_float(one, other) -%} {{ one }} is not distinct from {{ other }} {%- endmacro %} {#- NaN, too -#}
