//! A dead letter as `dead-letters show` has it.

use base64::{Engine, engine::general_purpose};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{super::output::say, age, thread};
use crate::{
    delivery::dead_letter::{DeadLetter, printable},
    failure::Failure,
    queue::Parked,
};

/// A message as `show` has it.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    #[serde(flatten)]
    letter: DeadLetter,
    content_type: Option<&'a str>,
    headers: Map<String, Value>,
    body_bytes: usize,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> Message<'a> {
    pub(super) fn new(parked: &'a Parked, letter: DeadLetter) -> Self {
        let body = std::str::from_utf8(parked.body()).ok();
        Self {
            letter,
            content_type: parked.content_type(),
            headers: parked.headers(),
            body_bytes: parked.body().len(),
            body,
            body_base64: body.is_none().then(|| general_purpose::STANDARD.encode(parked.body())),
        }
    }

    pub(super) fn say(&self) -> Result<(), Failure> {
        let letter = &self.letter;
        let text = |text: Option<&str>| indented(text.unwrap_or("-"));
        let parked_at = letter.parked_at.map_or_else(|| "-".to_owned(), |at| format!("{at:?}, {} ago", age(Some(at))));
        say(format!("\nthread        {}", thread(letter)))?;
        say(format!("reason        {}\nattempts      {}", letter.reason, letter.attempts))?;
        say(format!("parked        {parked_at}\nreplayed      {}", text(letter.replayed.as_deref())))?;
        say(format!("error         {}", text(letter.error.as_deref())))?;
        say(format!("trace id      {}", text(letter.trace_id.as_deref())))?;
        say(format!("message id    {}", text(letter.message_id.as_deref())))?;
        say(format!("content type  {}\nheaders", text(self.content_type)))?;
        for (key, value) in &self.headers {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say(format!("    {}: {}", indented(key), indented(&value)))?;
        }
        say(format!("body, {} bytes{}", self.body_bytes, if self.body.is_some() { "" } else { ", in Base64" }))?;
        say(format!("    {}", indented(self.body.or(self.body_base64.as_deref()).unwrap_or_default())))
    }
}

/// Nothing in a message can look like a line of ours.
fn indented(text: &str) -> String {
    printable(text).replace('\n', "\n    ")
}
