{#- The rules of a model as its YAML declares them, by name, in `meta.rules`. -#}
{% macro rules(model_name) -%}
    {%- set nodes = graph.nodes.values() if execute else [] -%}
    {%- for node in nodes if node.resource_type == 'model' and node.name == model_name -%}
        {{- return(node.config.meta.get('rules') or {}) -}}
    {%- endfor -%}
    {{- return({}) -}}
{%- endmacro %}


{#-
    The same as a list of `name`, `condition` (it holds), and `on_break`: `quarantine` keeps a row that
    breaks the rule out of the model, `warn` tells of it, `stop` ends the run at its gate.
-#}
{% macro declared_rules(model_name) -%}
    {%- set declared = [] -%}
    {%- for name, rule in rules(model_name).items() -%}
        {%- set rule = {'condition': rule} if rule is string else rule -%}
        {%- do declared.append(dict({'name': name, 'on_break': 'quarantine'}, **rule)) -%}
    {%- endfor -%}
    {{- return(declared) -}}
{%- endmacro %}


{#- Whether a row may be in a model: no rule but those that only warn is broken; undecided is broken. -#}
{% macro holds_rules(model_name) -%}
    true
    {%- for rule in declared_rules(model_name) if rule.on_break != 'warn' %}
    and coalesce(({{ rule.condition }}), false)
    {%- endfor -%}
{%- endmacro %}


{#- A row for each rule of a model; and whether a row that has a `rule` beside it holds that one. -#}
{% macro rule_names(model_name) -%}
    {%- set names = [] -%}
    {%- for rule in declared_rules(model_name) -%}
        {%- do names.append("('" ~ rule.name ~ "', '" ~ rule.on_break ~ "')") -%}
    {%- endfor -%}
    select
        rule,
        on_break
    from (values {{ names | join(', ') or "('', '')" }}) as named (rule, on_break)
    where rule <> ''
{%- endmacro %}

{% macro holds_rule(model_name) -%}
    coalesce(case
        when rule is null then true
        {%- for rule in declared_rules(model_name) %}
        when rule = '{{ rule.name }}' then {{ rule.condition }}
        {%- endfor %}
    end, false)
{%- endmacro %}


{#-
    A hook, which is about histories only: a replay judges all versions by the rules as they are now,
    those before the newest bulk snapshot too, which the changelog does not give again.
-#}
{% macro judge_again() -%}
    {%- set of = model.config.meta.get('history_of') -%}
    {%- if execute and of and is_incremental() and replay_from() is not none -%}
    update {{ this }} set is_valid = {{ holds_rules(of) }}
    where
        _commit_lsn > {{ replay_from() }}
        and is_valid <> ({{ holds_rules(of) }})
    {%- endif -%}
{%- endmacro %}
