"""Quality: what each layer must be before anybody relies on it, judged by Great Expectations."""
