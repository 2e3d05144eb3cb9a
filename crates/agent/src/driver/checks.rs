//! Hooks in the loop: asked once each, what they let pass recorded, before the model sees an input and before anybody
//! sees an output.
//!
//! Invariant: what a hook has refused or changed stands in no event, and in nothing that the run shows, as it was before.

use super::{Drive, read, result};
use crate::hooks::{CheckError, CheckTrigger, Hook, HookContext, Passed};
use crate::profile::Shape;
use outlive_core::port::Recall;
use outlive_core::{Failure, FailureKind, Message, ModelDelta, Record, Role, RunOutput, content_text, json as depth};
use serde_json::Value;

impl Drive<'_> {
    /// Asks the hooks before the run, also about what people have added. The task is then what they have made of it.
    pub(super) async fn check_input(&mut self) -> Result<(), Failure> {
        if let Some(shape) = &self.profile.input {
            self.task.content = fitting(shape, &self.task.content)?;
        }
        if let Some(said) = self.task.around.as_mut().and_then(|around| around.said.take()) {
            let task = content_text(Some(&self.task.content));
            let parts = [task.as_str(), &*said].into_iter().filter(|part| !part.is_empty());
            self.task.content = parts.collect::<Vec<_>>().join("\n\n").into();
        }
        for (number, hook) in self.profile.pre_hooks.iter().enumerate() {
            let content = self.task.content.clone();
            if let Passed::Changed(changed) = self.ask_hook(hook, number, content, false).await? {
                self.task.content = changed;
                self.is_input_changed = true;
            }
        }
        Ok(())
    }

    /// What was said in earlier runs, as the guardrails before the run let it in; none where they would not.
    pub(super) fn guarded(&self, said: String) -> Option<String> {
        self.profile.pre_hooks.iter().try_fold(said, |said, hook| hook.guarded(said))
    }

    /// Asks the hooks after the run. Returns the answer as they have left it.
    pub(super) async fn check_output(&mut self, mut answer: Value) -> Result<Value, Failure> {
        if !self.withholds_text() {
            self.end_text(&answer);
        }
        for (number, hook) in self.profile.post_hooks.iter().enumerate() {
            let Passed::Changed(changed) = self.ask_hook(hook, number, answer.clone(), true).await? else { continue };
            if let Some(shape) = &self.profile.output {
                shape.check(&changed).map_err(|problem| {
                    let (hook, name) = (&hook.name, &shape.schema.name);
                    let message = format!("what the hook {hook} made of the answer does not fit {name}: {problem}");
                    Failure { retryable: false, ..Failure::new(FailureKind::BadResponse, message) }
                })?;
            }
            answer = changed;
            self.is_changed = true;
        }
        Ok(answer)
    }

    async fn ask_hook(&self, hook: &Hook, number: usize, content: Value, is_output: bool) -> Result<Passed, Failure> {
        let key = self.place.base.hook(if is_output { "post" } else { "pre" }, number);
        let recall = self.effects().recall(&key);
        if let Recall::Done(value) = &recall {
            return read(&key, value);
        }
        if let Recall::Nothing = recall {
            let record = Record::Intent { key: key.clone(), name: None };
            self.tell(self.voice.hook_started(&hook.name, is_output), Some(record));
        }
        if !hook.is_pure() {
            self.durable().await?;
        }
        let context = HookContext {
            is_output,
            run_id: self.run_id.clone(),
            user_id: self.place.workflow.and_then(|workflow| workflow.run.user_id.clone()),
            input: self.task.content.clone(),
            images: self.task.images.clone(),
            files: self.task.files.clone(),
            session_state: self.state.all(),
            metadata: self.task.metadata.clone(),
            idempotency_key: format!("{}/{key}", self.place.root).into(),
        };
        // Of what hooks have made of the input, events show what all of them let pass.
        let is_last = !is_output && number + 1 == self.profile.pre_hooks.len();
        let mut passed = hook.ask(content, context).await?;
        let mut changed = Some(&self.task.content).filter(|_| is_last && self.is_input_changed);
        if let Passed::Changed(value) = &mut passed {
            depth::admit(value).map_err(|too_deep| {
                Failure::new(
                    FailureKind::Limit,
                    format!("what the hook {} returned cannot be kept: {too_deep}", hook.name),
                )
            })?;
            changed = Some(&*value).filter(|_| is_last);
        }
        let told = self.voice.hook_completed(&hook.name, is_output, changed);
        self.tell(told, Some(result(key, &passed)));
        Ok(passed)
    }

    /// Whether nobody may see the answer's text before all hooks have let it pass.
    pub(super) fn withholds_text(&self) -> bool {
        self.profile.post_hooks.iter().any(|hook| !hook.streams)
    }

    /// Says once that the text is complete; where it was not streamed, after showing all of it.
    pub(super) fn end_text(&mut self, answer: &Value) {
        if std::mem::replace(&mut self.has_ended_text, true) {
            return;
        }
        let key = self.key("content");
        if matches!(self.effects().recall(&key), Recall::Nothing) {
            if self.withholds_text() || self.machine.is_routed() {
                let text = content_text(Some(answer));
                self.tell(self.piece(ModelDelta::Content(text)), None);
            }
            self.tell(self.voice.content_completed(), Some(Record::Said { key }));
        }
    }
}

/// The input as its schema wants it.
fn fitting(shape: &Shape, input: &Value) -> Result<Value, Failure> {
    let fitted = match input {
        Value::String(text) => shape.parse(text),
        other => shape.fit(other.clone()),
    };
    fitted.map_err(|problem| {
        let message = format!("the input does not fit {}: {problem}", shape.schema.name);
        CheckError::new(message).trigger(CheckTrigger::ValidationFailed).into()
    })
}

/// The run with the answer as hooks have changed it.
pub(super) fn with_changed_answer(run: RunOutput) -> RunOutput {
    let answer = content_text(run.content.as_ref());
    let mut run = without_words(run);
    if let Some(last) = run.messages.last_mut() {
        last.content = Some(answer);
    }
    run
}

/// The run without what the model wrote on the way to its answer, wherever a guardrail would not have let it out.
pub(super) fn with_guarded_words(mut run: RunOutput, hooks: &[Hook]) -> RunOutput {
    let may_stand = |words: &Option<String>| {
        words.as_deref().is_none_or(|words| !hooks.iter().any(|hook| hook.guards_against(words)))
    };
    for message in run.messages.iter_mut().filter(is_own) {
        for words in [&mut message.content, &mut message.reasoning_content] {
            if !may_stand(words) {
                (*words, message.provider_data) = (None, None);
            }
        }
    }
    if !may_stand(&run.reasoning_content) {
        run.reasoning_content = None;
    }
    run
}

/// The run without its input, which may not be shown.
pub(super) fn without_input(run: RunOutput) -> RunOutput {
    RunOutput { input: None, ..run }
}

/// The run without anything the model has written in it.
pub(super) fn without_words(mut run: RunOutput) -> RunOutput {
    for message in run.messages.iter_mut().filter(is_own) {
        (message.content, message.reasoning_content, message.provider_data) = (None, None, None);
    }
    RunOutput { reasoning_content: None, ..run }
}

fn is_own(message: &&mut Message) -> bool {
    message.role == Role::Assistant && !message.from_history
}
