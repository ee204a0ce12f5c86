{{
    config(
        unique_key=['loan_id', 'rule'],
        merge_exclude_columns=['first_seen_at', 'run_id'],
    )
}}

{{ quarantine('loan', of='loans', history='loans_history', key=['loan_id']) }}
