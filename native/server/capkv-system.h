#pragma once

#include "chat.h"
#include "json.h"
#include "server-common.h"

// Where the first message of the user begins in a prompt. llama-server knows how some templates begin a message of the user; this finds it
// for any template, by changing that message

// the start of a chat's prompt that does not depend on the first message of the user: the system message, with the template's text around
// it. "" if the request does not ask for it with n_keep = -1, or the chat has no message of the user
//   n_keep: what the request says, or null
std::string capkv_system_text(
        const common_chat_templates * tmpls, const common_chat_templates_inputs & inputs, const std::string & prompt, const json & n_keep);

// the number of tokens at the start of a prompt that such a text makes; `data` has it as kv_system, or has none
int32_t capkv_count_system(const llama_vocab * vocab, const json & data, const server_tokens & tokens);
