{{
    config(
        unique_key=['loan_id', '_lsn'],
        changed_by=['is_current', 'valid_to'],
        partition_by=['is_current'],
        pre_hook="{{ judge_again('loans') }}",
    )
}}

{{ history('loan', rules_of='loans', written_at='updated_at') }}
