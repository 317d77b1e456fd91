//! The grammar of GRUB's script language: words, blocks, `if`, loops, functions, menu entries.

use std::rc::Rc;

use crate::error::Error;

/// Nested blocks.
const DEPTH: u32 = 32;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is.
    Text(String),
    /// A variable; unquoted, its value is split into words.
    Variable {
        /// Its name.
        name: String,
        /// Whether it is in double quotes.
        quoted: bool,
    },
}

/// A word of a command.
pub(super) type Word = Vec<Piece>;

/// A list of statements.
pub(super) type Block = Rc<Vec<Statement>>;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// A command with its arguments.
    Command(Vec<Word>),
    /// `if` and `elif` with their conditions, and `else`.
    If { arms: Vec<(Block, Block)>, otherwise: Block },
    /// `for name in words; do body; done`.
    For { name: String, words: Vec<Word>, body: Block },
    /// `while` and `until`.
    While { condition: Block, until: bool, body: Block },
    /// `function name { body }`.
    Function { name: String, body: Block },
    /// `menuentry` or `submenu`, with the words before the block.
    Menu { submenu: bool, words: Vec<Word>, body: Block },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    /// A newline or `;`.
    End,
}

/// Parses a script. What does not fit the grammar is skipped, as GRUB would stop there and show its
/// menu so far; only hostile nesting is an error.
pub(super) fn parse(text: &str) -> Result<Block, Error> {
    let mut parser = Parser { tokens: tokens(text), at: 0, depth: 0 };
    let mut statements = Vec::new();
    while parser.at < parser.tokens.len() {
        parser.block_into(&[], &mut statements)?;
        // A closing word without its block.
        parser.at += 1;
    }
    Ok(Rc::new(statements))
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut word: Option<Word> = None;
    fn add(word: &mut Option<Word>, c: char) {
        let word = word.get_or_insert_default();
        match word.last_mut() {
            Some(Piece::Text(text)) => text.push(c),
            _ => word.push(Piece::Text(c.into())),
        }
    }
    while let Some(c) = chars.next() {
        match c {
            '\n' | ';' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::End);
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            '#' if word.is_none() => while chars.next_if(|&c| c != '\n').is_some() {},
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => add(&mut word, c),
            },
            '\'' => {
                word.get_or_insert_default().push(Piece::Text(String::new()));
                for c in chars.by_ref() {
                    if c == '\'' {
                        break;
                    }
                    add(&mut word, c);
                }
            }
            '"' => {
                word.get_or_insert_default().push(Piece::Text(String::new()));
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some(c @ ('"' | '\\' | '$')) => add(&mut word, c),
                            Some('\n') | None => {}
                            Some(c) => {
                                add(&mut word, '\\');
                                add(&mut word, c);
                            }
                        },
                        '$' => match variable(&mut chars) {
                            Some(name) => word
                                .get_or_insert_default()
                                .push(Piece::Variable { name, quoted: true }),
                            None => add(&mut word, '$'),
                        },
                        c => add(&mut word, c),
                    }
                }
            }
            '$' => match variable(&mut chars) {
                Some(name) => {
                    word.get_or_insert_default().push(Piece::Variable { name, quoted: false });
                }
                None => add(&mut word, '$'),
            },
            c => add(&mut word, c),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens.push(Token::End);
    tokens
}

/// The name after `$`.
fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut name = String::new();
    if chars.next_if_eq(&'{').is_some() {
        for c in chars.by_ref() {
            if c == '}' {
                return Some(name);
            }
            name.push(c);
        }
        return Some(name);
    }
    if let Some(c) = chars.next_if(|c| matches!(c, '?' | '#' | '*' | '@')) {
        return Some(c.into());
    }
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    (!name.is_empty()).then_some(name)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
}

/// Words that end a block; at the start of a statement only.
const CLOSING: &[&str] = &["fi", "elif", "else", "then", "do", "done", "}"];

impl Parser {
    /// The next word if it is plain text.
    fn peek(&self) -> Option<&str> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => match word.as_slice() {
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    fn skip_ends(&mut self) {
        while self.tokens.get(self.at) == Some(&Token::End) {
            self.at += 1;
        }
    }

    /// Statements up to one of the closing words, which stays.
    fn block(&mut self, closing: &[&str]) -> Result<Block, Error> {
        let mut statements = Vec::new();
        self.block_into(closing, &mut statements)?;
        Ok(Rc::new(statements))
    }

    fn block_into(&mut self, closing: &[&str], out: &mut Vec<Statement>) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Error::TooLarge {
                what: "the nesting of blocks in a GRUB configuration".into(),
                limit: format!("{DEPTH} levels"),
                remedy: "write the configuration again with update-grub",
            });
        }
        loop {
            self.skip_ends();
            match self.peek() {
                Some(word) if closing.contains(&word) || CLOSING.contains(&word) => break,
                _ => {}
            }
            let before = self.at;
            if let Some(statement) = self.statement()? {
                out.push(statement);
            }
            if self.at == before || self.at >= self.tokens.len() {
                break;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn statement(&mut self) -> Result<Option<Statement>, Error> {
        match self.peek() {
            Some("if") => self.branch().map(Some),
            Some("for") => self.for_loop().map(Some),
            Some(word @ ("while" | "until")) => {
                let until = word == "until";
                self.at += 1;
                let condition = self.block(&["do"])?;
                self.take("do");
                let body = self.block(&["done"])?;
                self.take("done");
                Ok(Some(Statement::While { condition, until, body }))
            }
            Some("function") => {
                self.at += 1;
                let name = self.peek().unwrap_or_default().to_owned();
                self.at += 1;
                let body = self.braces()?;
                Ok(Some(Statement::Function { name, body }))
            }
            Some(word @ ("menuentry" | "submenu")) => {
                let submenu = word == "submenu";
                self.at += 1;
                let words = self.words(true);
                let body = self.braces()?;
                Ok(Some(Statement::Menu { submenu, words, body }))
            }
            _ => {
                let words = self.words(false);
                Ok((!words.is_empty()).then_some(Statement::Command(words)))
            }
        }
    }

    /// Words up to the end of the statement, or up to `{`.
    fn words(&mut self, until_brace: bool) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            if until_brace && self.peek() == Some("{") {
                break;
            }
            words.push(word.clone());
            self.at += 1;
        }
        words
    }

    fn braces(&mut self) -> Result<Block, Error> {
        self.skip_ends();
        if !self.take("{") {
            return Ok(Block::default());
        }
        let body = self.block(&["}"])?;
        self.take("}");
        Ok(body)
    }

    fn branch(&mut self) -> Result<Statement, Error> {
        let mut arms = Vec::new();
        let mut otherwise = Block::default();
        while self.take("if") || self.take("elif") {
            let condition = self.block(&["then"])?;
            self.take("then");
            let body = self.block(&["elif", "else", "fi"])?;
            arms.push((condition, body));
            if self.peek() == Some("if") {
                break;
            }
        }
        if self.take("else") {
            otherwise = self.block(&["fi"])?;
        }
        self.take("fi");
        Ok(Statement::If { arms, otherwise })
    }

    fn for_loop(&mut self) -> Result<Statement, Error> {
        self.at += 1;
        let name = self.peek().unwrap_or_default().to_owned();
        self.at += 1;
        self.take("in");
        let words = self.words(false);
        self.skip_ends();
        self.take("do");
        let body = self.block(&["done"])?;
        self.take("done");
        Ok(Statement::For { name, words, body })
    }
}
