#pragma once

#include "chat.h"
#include "json.h"
#include "server-common.h"

#include <vector>

// the question of a request, kv_focus, that takes part in what is evicted of its prompt

// a chat's question as a turn of the user, with the template's text around it up to where the answer begins
//   question: what the request says, or null; what is no text stays as it is
json capkv_question_text(const common_chat_templates * tmpls, const common_chat_templates_inputs & inputs, const json & question);

// its tokens, none without a question; throws std::invalid_argument naming what is allowed
//   data: has it as kv_focus, as text that is read as a prompt is
std::vector<llama_token> capkv_question_tokens(const llama_vocab * vocab, const json & data);
