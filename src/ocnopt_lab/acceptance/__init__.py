"""What users do with AdamW, as checks that any optimizer can be put to: `suite.CHECKS` are the rows of
docs/compatibility.md, `contenders.get` names its columns."""
