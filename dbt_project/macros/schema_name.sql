{#- The schema of a model is its layer, the same for everybody: branches are catalogs. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}{{ var('layer_suffix') }}
{%- endmacro %}
