{{ config(unique_key=['loan_id', 'installment']) }}

{{ current_state('loan_payment') }}
