{#- The schema of a table is its layer, the same for everybody: branches are catalogs. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or node.fqn[1]) | trim }}{{ var('layer_suffix') }}
{%- endmacro %}
