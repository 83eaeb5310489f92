"""Judgements to pages: the HTML report and the terminal. Nothing is computed here that a Judgement does not say."""
