{#-
    A row image is a JSON object: the source's column names, verbatim, and each value as the text that
    Postgres prints. Here it becomes a map of texts, and a text becomes a value of its declared type.
    Column names are keys of that map, never identifiers of SQL: Trino would fold them.
-#}
{% macro image_of(json) -%} {{ adapter.dispatch('image_of')(json) }} {%- endmacro %}
{% macro spark__image_of(json) -%}
    from_json({{ json }}, 'map<string, string>', map('mode', 'FAILFAST', 'maxStringLen', '2147483647'))
{%- endmacro %}
{% macro trino__image_of(json) -%} cast(json_parse({{ json }}) as map(varchar, varchar)) {%- endmacro %}


{#- The value of a declared column in an image, typed; null where the image lacks the column. -#}
{% macro value_in(image, column) -%}
    {{- typed(adapter.dispatch('text_in')(image, text_literal(source_name(column))), column.type) -}}
{%- endmacro %}

{% macro spark__text_in(image, name) -%} try_element_at({{ image }}, {{ name }}) {%- endmacro %}
{% macro trino__text_in(image, name) -%} element_at({{ image }}, {{ name }}) {%- endmacro %}

{% macro source_name(column) -%} {{- return(column.source_name or column.name) -}} {%- endmacro %}


{#-
    A text of Postgres's as a value of a declared type; null where the type can't hold it: a numeric's
    NaN and infinities, times that are infinite or outside of the years 1 to 9999.
-#}
{% macro typed(text, type) -%}
    {%- set engine = engine_type(type) -%}
    {%- if engine == engine_type('text') -%} {{ text }}
    {%- elif type == 'date' -%} case when length({{ text }}) = 10 then try_cast({{ text }} as date) end
    {%- elif type.startswith('timestamp') -%}
    case
        when {{ text }} like '____-__-__ %' and {{ text }} not like '%BC' then try_cast({{ text }} as {{ engine }})
    end
    {%- elif type == 'bytea' -%} {{ adapter.dispatch('from_hex')('substr(' ~ text ~ ', 3)') }}
    {%- else -%} try_cast({{ text }} as {{ engine }})
    {%- endif -%}
{%- endmacro %}

{% macro may_be_unheld(type) -%}
    {{- return(type == 'date' or type.startswith('timestamp') or type.startswith('numeric')) -}}
{%- endmacro %}

{% macro spark__from_hex(text) -%} unhex({{ text }}) {%- endmacro %}
{% macro trino__from_hex(text) -%} try(from_hex({{ text }})) {%- endmacro %}


{#- The names in a JSON array; the declared columns that an image lacks; whether a name is among names. -#}
{% macro names_in(json) -%} {{ adapter.dispatch('names_in')(json) }} {%- endmacro %}
{% macro spark__names_in(json) -%} from_json({{ json }}, 'array<string>') {%- endmacro %}
{% macro trino__names_in(json) -%} cast(json_parse({{ json }}) as array(varchar)) {%- endmacro %}

{% macro lacking(image, declared) -%}
    {%- set names = [] -%}
    {%- for column in declared.columns if column.name not in declared.key -%}
        {%- do names.append(text_literal(source_name(column))) -%}
    {%- endfor -%}
    array_except({{ adapter.dispatch('texts')(names | join(', ')) }}, map_keys({{ image }}))
{%- endmacro %}
{% macro spark__texts(listed) -%} cast(array({{ listed }}) as array<string>) {%- endmacro %}
{% macro trino__texts(listed) -%} cast(array[{{ listed }}] as array(varchar)) {%- endmacro %}

{% macro is_among(column, names) -%}
    coalesce({{ adapter.dispatch('contains')(names, text_literal(source_name(column))) }}, false)
{%- endmacro %}
{% macro spark__contains(names, name) -%} array_contains({{ names }}, {{ name }}) {%- endmacro %}
{% macro trino__contains(names, name) -%} contains({{ names }}, {{ name }}) {%- endmacro %}


{#- A text as SQL. -#}
{% macro text_literal(text) -%} {{ adapter.dispatch('text_literal')(text) }} {%- endmacro %}
{% macro spark__text_literal(text) -%}
    '{{ text | replace('\\', '\\\\') | replace("'", "\\'") }}'
{%- endmacro %}
{% macro trino__text_literal(text) -%} '{{ text | replace("'", "''") }}' {%- endmacro %}
