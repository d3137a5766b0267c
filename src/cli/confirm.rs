//! Asks the user: before a change that cannot be undone, and for values and passwords.

use std::io::{BufRead, IsTerminal, Write};

use super::exit::CliError;

/// Succeeds only if the user types `yes`, or `--yes` was given. Without a terminal it refuses, because it
/// cannot ask.
///
/// # Errors [`CliError::Usage`] if the user did not confirm.
pub fn confirm(what: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("this will {what}; add --yes to confirm")));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "This will {what}.\nType 'yes' to continue: ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(CliError::Usage("nothing was done".into())) }
}

/// Asks for a value, and returns the answer without the spaces around it. The caller has found that there is a terminal.
///
/// # Errors
/// When nothing can be read.
pub fn ask(prompt: &str) -> Result<String, CliError> {
    let mut err = std::io::stderr().lock();
    write!(err, "{prompt}")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Reads a password without showing it. If the input is not a terminal, it reads one line.
///
/// # Errors
/// When nothing can be read.
pub fn read_password(prompt: &str) -> Result<String, CliError> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let mut line = String::new();
    if stdin.is_terminal() {
        let describe = |error: nix::Error| CliError::Failed(format!("the terminal: {error}"));
        write!(std::io::stderr(), "{prompt}")?;
        std::io::stderr().flush()?;
        let before = tcgetattr(&stdin).map_err(describe)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &silent).map_err(describe)?;
        let read = stdin.lock().read_line(&mut line);
        tcsetattr(&stdin, SetArg::TCSANOW, &before).map_err(describe)?;
        writeln!(std::io::stderr())?;
        read?;
    } else {
        stdin.lock().read_line(&mut line)?;
    }
    let password = line.trim_end_matches(['\n', '\r']).to_owned();
    if password.is_empty() {
        let what = prompt.trim_end_matches([':', ' ']).to_lowercase();
        return Err(CliError::Usage(format!("no password was given; expected on a line: {what}")));
    }
    Ok(password)
}
