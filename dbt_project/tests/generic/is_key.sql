{#-
    The columns identify a row: none is null and no two rows share them. Where a gate follows, looked
    at are keys of rows that this branch has written: the others were when they were published. (Spark
    is told that these are few; to Trino that is a comment.)
-#}
{% test is_key(model, columns) -%}
    {%- set written = files_written(model) -%}
    select {{ quoted(columns) }}
    from {{ model }}
    where {% for column in columns %}{{ adapter.quote(column) }} is null{{ ' or ' if not loop.last }}{% endfor %}
    {%- if written != [] %}
    union all
    select {{ '/*+ broadcast(written) */ ' if written }}{{ quoted(columns, 'held') }}
    from {{ model }} as held
    {%- if written %}
    inner join (
        select distinct {{ quoted(columns) }}
        from {{ model }}
        where {{ file_of_row() }} in ('{{ written | join("', '") }}')
    ) as written on {{ same_key(columns, 'written', 'held') }}
    {%- endif %}
    group by {{ quoted(columns, 'held') }}
    having count(*) > 1
    {%- endif %}
{%- endtest %}
