{#
    dbt's own view materialization makes a new view and drops the old one with all that reads it:
    building staging alone would take the marts, and grants on them, away. This one replaces the
    view in place, and recreates it only where Postgres refuses to (a column removed, renamed or
    retyped); `dbt build --select marts` brings the marts back then.
#}
{% materialization view, adapter='postgres' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- if should_full_refresh() or (existing is not none and not existing.is_view) -%}
        {{ return(materialization_view_default()) }}
    {%- endif -%}
    {%- set view = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% call statement('main') -%}
        do $materialization$
        begin
            {{ get_replace_view_sql(view, sql) }}
        exception when invalid_table_definition then
            {{ drop_view(view) }};
            {{ get_create_view_as_sql(view, sql) }}
        end
        $materialization$
    {%- endcall %}

    {% do apply_grants(view, config.get('grants'), should_revoke=should_revoke(existing, full_refresh_mode=False)) %}
    {% do persist_docs(view, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [view]}) }}
{% endmaterialization %}
