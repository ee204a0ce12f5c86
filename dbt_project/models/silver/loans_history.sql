{{
    config(
        unique_key=['loan_id', '_commit_lsn', '_ordinal'],
        changed_by=['is_current', 'valid_to'],
        partition_by=['is_current'],
    )
}}

{{ history('loan', written_at='updated_at') }}
