#include "capkv-question.h"

#include "capkv-props.h"

#include <stdexcept>

json capkv_question_text(const common_chat_templates * tmpls, const common_chat_templates_inputs & inputs, const json & question) {
    if (!question.is_string()) {
        return question;
    }
    common_chat_msg msg;
    msg.role    = "user";
    msg.content = question.get<std::string>();

    auto other = inputs;
    other.messages = { msg };
    other.tools.clear();

    return common_chat_templates_apply(tmpls, other).prompt;
}

std::vector<llama_token> capkv_question_tokens(const llama_vocab * vocab, const json & data) {
    const json question = json_value(data, "kv_focus", json(nullptr));
    if (question.is_null()) {
        return {};
    }
    if (capkv_props().is_null()) {
        throw std::invalid_argument("kv_focus: the server has no budget; --kv-budget gives it one");
    }
    if (!question.is_string() || question.get<std::string>().empty()) {
        throw std::invalid_argument("kv_focus = " + question.dump() + ": allowed is a text that is not empty");
    }
    return common_tokenize(vocab, question.get<std::string>(), /*add_special =*/ true, /*parse_special =*/ true);
}
