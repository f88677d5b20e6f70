"""What ``ChatSeka`` declares to LangChain's own suites, on whichever model they run."""

from __future__ import annotations

from langchain_seka import ChatSeka


class OfChatSeka:
    @property
    def chat_model_class(self):
        return ChatSeka

    @property
    def supports_json_mode(self):
        return True

    @property
    def has_tool_choice(self):
        return True
