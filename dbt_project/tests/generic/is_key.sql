{#- The columns identify a row: none is null and no two rows share them. A run leaves this to its gate. -#}
{% test is_key(model, columns) -%}
    select {{ quoted(columns) }}
    from {{ model }}
    where {% for column in columns %}{{ adapter.quote(column) }} is null{{ ' or ' if not loop.last }}{% endfor %}
    union all
    select {{ quoted(columns) }}
    from {{ model }}
    group by {{ quoted(columns) }}
    having count(*) > 1
{%- endtest %}
