//! Runs scripts: variables, conditions, and the few commands that matter.

mod conditions;
mod words;

use std::collections::HashMap;
use std::rc::Rc;

use super::super::{Entry, Location, Volumes, boot_loader_spec};
use super::environment;
use super::script::{self, Block, Statement, Word};
use crate::error::Error;

/// Statements run, all in all.
const STEPS: u32 = 100_000;

/// Text parsed, all in all; a parsed script takes many times the memory of its text.
const TEXT_BYTES: u32 = 2 << 20;

/// Nested calls and configuration files.
const DEPTH: u32 = 32;

/// Bytes of one expanded word, and of one variable.
const WORD_BYTES: usize = 8192;

/// Variables, functions and menu entries.
const NAMES: usize = 4096;

/// An item of the menu.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) title: String,
    pub(super) id: String,
    pub(super) action: Action,
}

/// What an item does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Runs commands.
    Boot(Block, Vec<String>),
    /// Shows more items.
    Submenu(Block, Vec<String>),
    /// Boots what a boot loader specification file says.
    Ready(Box<Entry>),
}

/// The interpreter.
pub(super) struct Machine<'a> {
    volumes: &'a Volumes,
    pub(super) variables: HashMap<String, String>,
    functions: HashMap<String, Block>,
    pub(super) items: Vec<Item>,
    kernel: Option<(Location, String)>,
    initrds: Vec<Location>,
    pub(super) config: Location,
    steps: u32,
    text: u32,
    depth: u32,
}

impl<'a> Machine<'a> {
    pub(super) fn new(volumes: &'a Volumes, config: &Location) -> Machine<'a> {
        let device = volumes.device(config.volume);
        let directory = config.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let variables = [
            ("root", device.as_str()),
            ("prefix", &format!("({device}){directory}")),
            ("config_directory", &format!("({device}){directory}")),
            ("grub_platform", "pc"),
            ("grub_cpu", "x86_64"),
            ("feature_menuentry_id", "y"),
            ("feature_timeout_style", "y"),
            ("feature_platform_search_hint", "y"),
            ("feature_default_font_path", "y"),
            ("feature_all_video_module", "y"),
            // Ubuntu's entries boot without an initrd first and with it after that has failed;
            // there is no second try here.
            ("initrdfail", "1"),
        ];
        Machine {
            volumes,
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            functions: HashMap::new(),
            items: Vec::new(),
            kernel: None,
            initrds: Vec::new(),
            config: config.clone(),
            steps: 0,
            text: 0,
            depth: 0,
        }
    }

    /// Runs a configuration file.
    pub(super) fn run_file(&mut self, at: &Location) -> Result<bool, Error> {
        match self.volumes.text(at)? {
            Some(text) => self.run_text(&text),
            None => Ok(false),
        }
    }

    pub(super) fn run_text(&mut self, text: &str) -> Result<bool, Error> {
        self.text = self.text.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
        if self.text > TEXT_BYTES {
            return Err(too_large("bytes", TEXT_BYTES));
        }
        let block = script::parse(text)?;
        self.run(&block)
    }

    /// Runs the commands of an item: the entry, if they name a kernel.
    pub(super) fn boot(
        &mut self,
        title: &str,
        block: &Block,
        arguments: &[String],
    ) -> Result<Option<Entry>, Error> {
        self.kernel = None;
        self.initrds.clear();
        self.set_arguments(arguments);
        self.run(block)?;
        let Some((kernel, options)) = self.kernel.take() else { return Ok(None) };
        Ok(Some(Entry {
            title: title.to_owned(),
            kernel,
            initrds: std::mem::take(&mut self.initrds),
            options,
            config: self.config.path.clone(),
        }))
    }

    /// The items of a submenu.
    pub(super) fn submenu(
        &mut self,
        block: &Block,
        arguments: &[String],
    ) -> Result<Vec<Item>, Error> {
        let outer = std::mem::take(&mut self.items);
        self.set_arguments(arguments);
        self.run(block)?;
        Ok(std::mem::replace(&mut self.items, outer))
    }

    pub(super) fn run(&mut self, block: &Block) -> Result<bool, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(too_large("nested calls", DEPTH));
        }
        let mut status = true;
        for statement in block.iter() {
            status = self.step(statement)?;
        }
        self.depth -= 1;
        Ok(status)
    }

    fn count(&mut self) -> Result<(), Error> {
        self.volumes.disk.check_budget()?;
        self.steps += 1;
        if self.steps > STEPS {
            return Err(too_large("commands", STEPS));
        }
        Ok(())
    }

    fn step(&mut self, statement: &Statement) -> Result<bool, Error> {
        self.count()?;
        match statement {
            Statement::Command(words) => {
                let words = self.expand(words)?;
                self.command(&words)
            }
            Statement::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.run(condition)? {
                        return self.run(body);
                    }
                }
                self.run(otherwise)
            }
            Statement::For { name, words, body } => {
                for value in self.expand(words)? {
                    self.count()?;
                    self.set(name, &value);
                    self.run(body)?;
                }
                Ok(true)
            }
            Statement::While { condition, until, body } => {
                while self.run(condition)? != *until {
                    self.count()?;
                    self.run(body)?;
                }
                Ok(true)
            }
            Statement::Function { name, body } => {
                if self.functions.len() < NAMES {
                    self.functions.insert(name.clone(), Rc::clone(body));
                }
                Ok(true)
            }
            Statement::Menu { submenu, words, body } => {
                self.add_item(*submenu, words, body)?;
                Ok(true)
            }
        }
    }

    fn add_item(&mut self, submenu: bool, words: &[Word], body: &Block) -> Result<(), Error> {
        let words = self.expand(words)?;
        let mut title = None;
        let mut id = None;
        let mut rest = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.split_once('=').map_or(word.as_str(), |(option, _)| option) {
                option @ ("--id" | "--class" | "--users" | "--hotkey" | "--source") => {
                    let inline = word.strip_prefix(option).and_then(|rest| rest.strip_prefix('='));
                    let value = inline.map(str::to_owned).or_else(|| words.next());
                    if option == "--id" {
                        id = value;
                    }
                }
                "--unrestricted" => {}
                _ if title.is_none() => title = Some(word),
                _ => rest.push(word),
            }
        }
        let title = title.unwrap_or_default();
        let mut arguments = vec![title.clone()];
        arguments.append(&mut rest);
        if self.items.len() < NAMES {
            let body = Rc::clone(body);
            self.items.push(Item {
                id: id.unwrap_or_else(|| title.clone()),
                title,
                action: if submenu {
                    Action::Submenu(body, arguments)
                } else {
                    Action::Boot(body, arguments)
                },
            });
        }
        Ok(())
    }

    fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    fn set(&mut self, name: &str, value: &str) {
        if value.len() <= WORD_BYTES
            && (self.variables.len() < NAMES || self.variables.contains_key(name))
        {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    fn set_arguments(&mut self, arguments: &[String]) {
        for (number, argument) in (1..).zip(arguments).take(16) {
            let name: i32 = number;
            self.set(&name.to_string(), argument);
        }
        self.set("chosen", arguments.first().map_or("", String::as_str));
    }

    /// Runs one command; the answer is its status.
    fn command(&mut self, words: &[String]) -> Result<bool, Error> {
        let negations = words.iter().take_while(|word| *word == "!").count();
        if negations > 0 {
            let status = self.command(&words[negations..])?;
            return Ok(status != (negations % 2 == 1));
        }
        let Some((name, arguments)) = words.split_first() else { return Ok(true) };
        if let Some(body) = self.functions.get(name).map(Rc::clone) {
            self.set_arguments(arguments);
            return self.run(&body);
        }
        match name.as_str() {
            "set" => {
                for argument in arguments {
                    if let Some((name, value)) = argument.split_once('=') {
                        self.set(name, value);
                    }
                }
            }
            "unset" => {
                for name in arguments {
                    self.variables.remove(name);
                }
            }
            "[" | "test" => {
                let end = arguments.len() - usize::from(arguments.last().is_some_and(|w| w == "]"));
                return self.test(&arguments[..end]);
            }
            "true" | "export" | "insmod" | "echo" | "save_env" | "terminal_output"
            | "terminal_input" | "serial" | "rmmod" | "clear" | "play" | "cutmem" => {}
            "load_env" => return self.load_env(arguments),
            "search" => return self.search(arguments),
            "search.fs_uuid" | "search.fs_label" | "search.file" => {
                let flag = name.replace("search.", "--");
                let set = arguments.get(1).map_or("root", String::as_str);
                let wanted = arguments.first().cloned().unwrap_or_default();
                return self.search(&[flag, format!("--set={set}"), wanted]);
            }
            "linux" | "linux16" | "linuxefi" => {
                let Some((path, options)) = arguments.split_first() else { return Ok(false) };
                let Some(at) = self.locate(path) else { return Ok(false) };
                self.kernel = Some((at, join(options)));
                self.initrds.clear();
            }
            "initrd" | "initrd16" | "initrdefi" => {
                for path in arguments.iter().filter(|path| !path.starts_with("--")).take(16) {
                    let Some(at) = self.locate(path) else { return Ok(false) };
                    self.initrds.push(at);
                }
            }
            "blscfg" => self.boot_loader_spec()?,
            "source" | "." => {
                let Some(at) = arguments.first().and_then(|path| self.locate(path)) else {
                    return Ok(false);
                };
                return self.nested(|machine| machine.run_file(&at));
            }
            "configfile" | "extract_entries_configfile" | "normal" => {
                let Some(at) = arguments.first().and_then(|path| self.locate(path)) else {
                    return Ok(false);
                };
                self.items.clear();
                self.config = at.clone();
                return self.nested(|machine| machine.run_file(&at));
            }
            assignment if is_assignment(assignment) => {
                if let Some((name, value)) = assignment.split_once('=') {
                    self.set(name, value);
                }
            }
            // What needs a machine under it: fonts, keys, graphics, SMBIOS.
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn nested(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(too_large("nested configuration files", DEPTH));
        }
        let status = run(self);
        self.depth -= 1;
        status
    }

    fn load_env(&mut self, arguments: &[String]) -> Result<bool, Error> {
        let mut path = None;
        let mut names = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "-f" | "--file" => path = arguments.next().cloned(),
                flag if flag.starts_with("--file=") => path = Some(flag[7..].to_owned()),
                flag if flag.starts_with('-') => {}
                name => names.push(name),
            }
        }
        let path = path.unwrap_or_else(|| format!("{}/grubenv", self.get("prefix")));
        let Some(at) = self.locate(&path) else { return Ok(false) };
        let Some(text) = self.volumes.text(&at)? else { return Ok(false) };
        for (name, value) in environment::parse(&text) {
            if names.is_empty() || names.contains(&name.as_str()) {
                self.set(&name, &value);
            }
        }
        Ok(true)
    }

    fn search(&mut self, arguments: &[String]) -> Result<bool, Error> {
        let mut by = "--file";
        let mut set = None;
        let mut wanted = None;
        let mut arguments = arguments.iter().peekable();
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
                _ => (argument.as_str(), None),
            };
            match flag {
                "--fs-uuid" | "--fs_uuid" | "-u" => by = "--fs-uuid",
                "--label" | "--fs-label" | "--fs_label" | "-l" => by = "--label",
                "--file" | "-f" => by = "--file",
                "--set" | "-s" => set = Some(value.unwrap_or("root").to_owned()),
                "--hint" if value.is_none() => {
                    arguments.next();
                }
                flag if flag.starts_with('-') => {}
                _ if wanted.is_none() => wanted = Some(argument),
                // `--set name what`: the first was the variable.
                _ => {
                    set = wanted.cloned();
                    wanted = Some(argument);
                }
            }
        }
        let Some(wanted) = wanted else { return Ok(false) };
        let found = match by {
            "--fs-uuid" => self.volumes.by_uuid(wanted),
            "--label" => self.volumes.by_label(wanted),
            _ => {
                let mut found = None;
                for volume in 0..self.volumes.list.len() {
                    let at = Location { volume, path: absolute(wanted) };
                    if found.is_none() && self.volumes.stat(&at)?.is_some() {
                        found = Some(volume);
                    }
                }
                found
            }
        };
        if let (Some(volume), Some(name)) = (found, &set) {
            let device = self.volumes.device(volume);
            self.set(name, &device);
        }
        Ok(found.is_some())
    }

    /// A path as GRUB has them: `(hd0,gpt1)/x`, or `/x` on `$root`. The configuration's own volume
    /// stands in for a `$root` that is not there.
    fn locate(&self, path: &str) -> Option<Location> {
        let (device, path) = match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((device, path)) => (device, path),
            None => (self.get("root"), path),
        };
        if path.len() > 4096 {
            return None;
        }
        let volume = self.volumes.by_device(device).unwrap_or(self.config.volume);
        Some(Location { volume, path: absolute(path) })
    }

    fn boot_loader_spec(&mut self) -> Result<(), Error> {
        let root = self.volumes.by_device(self.get("root")).unwrap_or(self.config.volume);
        let mut places = vec![root];
        if root != self.config.volume {
            places.push(self.config.volume);
        }
        for volume in places {
            let entries =
                boot_loader_spec::entries(self.volumes, volume, &|name| self.get(name).to_owned())?;
            if entries.is_empty() {
                continue;
            }
            let room = NAMES.saturating_sub(self.items.len());
            for (id, entry) in entries.into_iter().take(room) {
                let title = entry.title.clone();
                self.items.push(Item { title, id, action: Action::Ready(Box::new(entry)) });
            }
            return Ok(());
        }
        Ok(())
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The options of a kernel. One with spaces gets quotes, as GRUB does it.
fn join(options: &[String]) -> String {
    let mut line = String::new();
    for option in options {
        if !line.is_empty() {
            line.push(' ');
        }
        if option.contains(char::is_whitespace) {
            line.push('"');
            line.push_str(option);
            line.push('"');
        } else {
            line.push_str(option);
        }
    }
    line
}

fn too_large(what: &str, limit: u32) -> Error {
    Error::TooLarge {
        what: format!("the number of {what} in a GRUB configuration"),
        limit: limit.to_string(),
        remedy: "write the configuration again with update-grub",
    }
}
