"""From routerd to the Rule Table: messages, the conversation, a router's state."""
