"""The paper's BERTScore reward: a captioner, then BERTScore of the caption against the prompt."""
