//! From messages to the ids of a prompt, as the checkpoint's chat template has them.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use quest_burn_models::{
    chat::{ChatTemplate, ChatTemplates, Conversation, Message, SpecialTokens, Value},
    tokenizer::Tokenizer,
};

use crate::model::ModelPlan;

#[derive(Args)]
pub(crate) struct TemplateOptions {
    /// A message that tells the model how to behave, before all others
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A file with a chat template in Jinja, or the name of one of the checkpoint's [default: the
    /// checkpoint's]
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Variables of the chat template as a JSON object, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON")]
    template_args: Option<String>,
}

/// Variables of a template, by name.
type Variables = BTreeMap<String, Value>;

/// Makes prompts of messages.
#[derive(Debug)]
pub(crate) struct Prompter {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    system: Option<String>,
    variables: Variables,
    stop_ids: Vec<u32>,
}

impl Prompter {
    /// What a checkpoint and the options say.
    pub(crate) fn new(plan: &ModelPlan, options: &TemplateOptions) -> anyhow::Result<Self> {
        let path = plan.model.path();
        let Some(tokenizer) = plan.model.tokenizer() else {
            bail!(
                "{}: expected a tokenizer ({}), as messages are text, found none",
                path.display(),
                Tokenizer::FILE
            );
        };
        let special = special_tokens(plan, tokenizer)?;
        let template = options.template(plan, special)?;
        let mut stop_ids = plan.config().stop_token_ids.clone();
        let end_of_turn = template.end_of_turn(tokenizer);
        stop_ids.extend(end_of_turn.filter(|id| !stop_ids.contains(id)));
        Ok(Self {
            template,
            tokenizer: tokenizer.clone(),
            system: options.system.clone(),
            variables: options.variables()?,
            stop_ids,
        })
    }

    /// The same; none where there is no chat template, of the checkpoint or of the options.
    #[cfg(feature = "serve")]
    pub(crate) fn find(
        plan: &ModelPlan,
        options: &TemplateOptions,
    ) -> anyhow::Result<Option<Self>> {
        let has_template = plan.model.source().chat_templates()?.is_some();
        match has_template || options.chat_template.is_some() {
            true => Self::new(plan, options).map(Some),
            false => Ok(None),
        }
    }

    /// The checkpoint's stop tokens, and the one that its template ends an answer with.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The message that all others follow.
    pub(crate) fn system(&self) -> Option<Message> {
        self.system.as_ref().map(Message::system)
    }

    /// Ids of a text alone.
    pub(crate) fn count(&self, text: &str) -> anyhow::Result<usize> {
        Ok(self.tokenizer.encode_continuation(text)?.len())
    }

    /// Ids of messages that an answer is to follow.
    pub(crate) fn ids(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        self.conversation_ids(Conversation::to_answer(messages.to_vec()))
    }

    /// Ids of a conversation, whose variables come before those of the options.
    pub(crate) fn conversation_ids(
        &self,
        mut conversation: Conversation,
    ) -> anyhow::Result<Vec<u32>> {
        for (name, value) in &self.variables {
            let variables = &mut conversation.variables;
            variables
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        Ok(self.template.encode(&self.tokenizer, &conversation)?)
    }

    /// How the template shows calls of tools; none where it is in no form that is known.
    #[cfg(all(feature = "serve", feature = "grammar"))]
    pub(crate) fn call_form(&self) -> Option<quest_burn_models::grammar::CallForm> {
        quest_burn_models::grammar::CallForm::of_template(self.template.source())
    }

    /// The same, without grammars that would need it.
    #[cfg(all(feature = "serve", not(feature = "grammar")))]
    pub(crate) fn call_form(&self) -> Option<()> {
        None
    }

    /// Whether the template shows tools to the model.
    #[cfg(feature = "serve")]
    pub(crate) fn shows_tools(&self) -> bool {
        self.template.source().contains("tools")
    }
}

impl TemplateOptions {
    /// Refuses options that have no effect without another one.
    pub(crate) fn refuse(&self, without: &str) -> anyhow::Result<()> {
        let given = [
            ("--system", self.system.is_some()),
            ("--chat-template", self.chat_template.is_some()),
            ("--template-args", self.template_args.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => bail!("{name}: expected {without} too, found none"),
            None => Ok(()),
        }
    }

    fn variables(&self) -> anyhow::Result<Variables> {
        let variables = self.template_args.as_deref().map(serde_json::from_str);
        let variables = variables
            .transpose()
            .context("--template-args: expected a JSON object")?;
        Ok(variables.unwrap_or_default())
    }

    fn template(&self, plan: &ModelPlan, special: SpecialTokens) -> anyhow::Result<ChatTemplate> {
        let found = plan.model.source().chat_templates()?;
        let Some(asked) = &self.chat_template else {
            let Some(templates) = found else {
                bail!(
                    "{}: expected a chat template (`chat_template.jinja`, or field \
                     `chat_template` of `tokenizer_config.json`), found none: this may not be a \
                     chat model; `--chat-template FILE` gives it one",
                    plan.model.path().display()
                );
            };
            return Ok(templates.select(None, false, special)?);
        };
        let name = asked.to_str().filter(|_| !asked.exists());
        if let (Some(name), Some(templates)) = (name, found) {
            return Ok(templates.select(Some(name), false, special)?);
        }
        let templates = ChatTemplates::from_file(asked).context("--chat-template")?;
        Ok(templates.select(None, false, special)?)
    }
}

fn special_tokens(plan: &ModelPlan, tokenizer: &Tokenizer) -> anyhow::Result<SpecialTokens> {
    let config = plan.config();
    let special = plan.model.source().special_tokens()?;
    Ok(special
        .or_id("bos_token", config.bos_token_id, tokenizer)
        .or_id(
            "eos_token",
            config.stop_token_ids.first().copied(),
            tokenizer,
        ))
}
