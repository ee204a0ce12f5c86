{#- The rules of a model, by name: `meta.rules` in its YAML, each a condition that holds. -#}
{% macro rules(model_name) -%}
    {%- set nodes = graph.nodes.values() if execute else [] -%}
    {%- for node in nodes if node.resource_type == 'model' and node.name == model_name -%}
        {{- return(node.config.meta.get('rules') or {}) -}}
    {%- endfor -%}
    {{- return({}) -}}
{%- endmacro %}


{#- Whether a row holds all rules of a model; what can't be decided is broken. -#}
{% macro holds_rules(model_name) -%}
    true
    {%- for condition in rules(model_name).values() %}
    and coalesce(({{ condition }}), false)
    {%- endfor -%}
{%- endmacro %}


{#- A row for each rule of a model; and whether a row that has a `rule` beside it holds that one. -#}
{% macro rule_names(model_name) -%}
    {%- for name in rules(model_name) %}
    select '{{ name }}' as rule {{ 'union all' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{% macro holds_rule(model_name) -%}
    coalesce(case rule
        {%- for name, condition in rules(model_name).items() %}
        when '{{ name }}' then {{ condition }}
        {%- endfor %}
    end, false)
{%- endmacro %}
