{#- The columns identify a row: none is null and no two rows share them. -#}
{% test is_key(model, columns) -%}
    select {{ columns | join(', ') }}
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1 or {{ columns | join(' is null or ') }} is null
{%- endtest %}
