//! Asking a person before something that can't be taken back.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// Whether the person at the terminal types `expected`. Fails where there is nobody to ask.
pub(super) fn confirm(question: &str, expected: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::permanent(format!(
            "{question}: there is no terminal to ask at; say --yes to do it unasked"
        )));
    }
    print!("{question}. Type {expected} to go on: ");
    let mut answer = String::new();
    let read = io::stdout().flush().and_then(|()| io::stdin().read_line(&mut answer));
    read.map_err(|error| Failure::permanent(format!("can't read the answer: {error}")))?;
    Ok(answer.trim() == expected)
}
