{{ config(unique_key='loan_id') }}

{{ current_state('loan', ref('loans_history')) }}
