{{
    config(
        unique_key=['loan_id', 'rule'],
        merge_exclude_columns=['first_seen_at', 'run_id'],
    )
}}

{{ quarantine('loan', ref('loans_history')) }}
