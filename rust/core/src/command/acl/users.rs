//! All users, and what is kept about them besides: who was refused, and who failed to log in.

use super::attempts::Attempts;
use super::journal::Journal;
use super::user::{User, Wrong};
use crate::store::object::Shelf;
use std::collections::BTreeMap;

/// Names a user for as long as it is there.
pub type UserId = u32;

/// The user whom clients are that have not said who they are.
pub const DEFAULT: UserId = 0;

/// See the module's page.
pub struct Users {
    shelf: Shelf<User>,
    names: BTreeMap<Box<[u8]>, UserId>,
    /// Whether anything is forbidden to anybody: while it is not, no request is looked at.
    limited: bool,
    /// Whether clients need not say who they are.
    open: bool,
    /// The default user's password, as the settings said it last; `None` when they say it anew.
    password: Option<String>,
    /// Who was refused.
    pub journal: Journal,
    /// Who failed to log in.
    pub attempts: Attempts,
}

impl Default for Users {
    fn default() -> Self {
        let mut users = Users {
            shelf: Shelf::default(),
            names: BTreeMap::new(),
            limited: false,
            open: true,
            password: Some(String::new()),
            journal: Journal::default(),
            attempts: Attempts::default(),
        };
        users.names.insert(b"default".as_slice().into(), users.shelf.put(User::default_one()));
        users
    }
}

impl Users {
    /// Whether anything is forbidden to anybody.
    #[inline(always)]
    pub fn are_limited(&self) -> bool {
        self.limited
    }

    /// Whether a client may go on without saying who it is.
    #[inline]
    pub fn open(&self) -> bool {
        self.open
    }

    /// The user of this number.
    pub fn get(&self, id: UserId) -> Option<&User> {
        self.shelf.get(id)
    }

    /// The user of this name.
    pub fn find(&self, name: &[u8]) -> Option<UserId> {
        self.names.get(name).copied()
    }

    /// All users by name.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &User> {
        let users: Vec<&User> = self.names.values().filter_map(|&id| self.shelf.get(id)).collect();
        users.into_iter()
    }

    /// Change a user by rules, or make it; all rules hold, or none. The error names the rule that does not.
    pub fn set(&mut self, name: &[u8], rules: &[Vec<u8>], all_channels: bool) -> Result<UserId, (Vec<u8>, Wrong)> {
        let known = self.find(name).and_then(|id| self.shelf.get(id)).cloned();
        let mut user = known.unwrap_or_else(|| User::new(name, all_channels));
        for rule in rules {
            user.apply(rule, all_channels).map_err(|wrong| (rule.clone(), wrong))?;
        }
        Ok(self.put(user))
    }

    fn put(&mut self, user: User) -> UserId {
        let id = match self.find(&user.name) {
            Some(id) => {
                if let Some(place) = self.shelf.get_mut(id) {
                    *place = user;
                }
                id
            }
            None => {
                let name = user.name.clone();
                let id = self.shelf.put(user);
                self.names.insert(name, id);
                id
            }
        };
        self.look_again();
        id
    }

    /// Forget a user.
    pub fn remove(&mut self, name: &[u8]) -> Option<UserId> {
        let id = self.names.remove(name)?;
        self.shelf.take(id);
        self.look_again();
        Some(id)
    }

    /// Have these users and no others; a default user there is always. Returns those that are gone or changed.
    pub fn replace(&mut self, users: Vec<User>) -> Vec<UserId> {
        let before: Vec<(UserId, Vec<u8>)> =
            self.names.values().filter_map(|&id| Some((id, self.shelf.get(id)?.told()))).collect();
        let gone: Vec<Box<[u8]>> =
            self.names.keys().filter(|name| !users.iter().any(|user| user.name == **name)).cloned().collect();
        for name in gone {
            if *name == *b"default" {
                self.put(User::default_one());
            } else {
                self.remove(&name);
            }
        }
        for user in users {
            self.put(user);
        }
        let same = |id: UserId, told: &Vec<u8>| self.shelf.get(id).is_some_and(|user| user.told() == *told);
        before.iter().filter(|(id, told)| !same(*id, told)).map(|(id, _)| *id).collect()
    }

    /// Take over what the settings say is the default user's password, when they say something new.
    pub fn default_password(&mut self, password: &str) {
        if self.password.as_deref() == Some(password) {
            return;
        }
        self.password = Some(password.to_owned());
        if let Some(user) = self.shelf.get_mut(DEFAULT) {
            let secret = [b">", password.as_bytes()].concat();
            let rule: &[u8] = if password.is_empty() { b"nopass" } else { &secret };
            // None of these rules can be wrong.
            let _ = user.apply(b"resetpass", false).and_then(|()| user.apply(rule, false));
        }
        self.look_again();
    }

    /// The settings are about to say the default user's password, be it the same: rules changed it meanwhile.
    pub fn expect_password(&mut self) {
        self.password = None;
    }

    fn look_again(&mut self) {
        let limited = self.all().any(|user| !user.is_unlimited());
        self.limited = limited;
        self.open = self.shelf.get(DEFAULT).is_some_and(|user| user.on && user.no_password);
    }
}

#[test]
fn users_come_change_and_go() {
    let rules = |text: &str| text.split(' ').map(|rule| rule.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut users = Users::default();
    assert!(users.open() && !users.are_limited());
    users.default_password("secret");
    assert!(!users.open() && users.get(DEFAULT).is_some_and(|user| user.knows(b"secret")));
    let id = users.set(b"ann", &rules("on >pw +get"), false).unwrap();
    assert!(users.are_limited());
    assert_eq!(users.set(b"ann", &rules("+set +nosuch"), false), Err((b"+nosuch".to_vec(), Wrong::Unknown)));
    assert_eq!(users.get(id).map(User::told).unwrap(), users.all().next().unwrap().told());
    assert!(String::from_utf8_lossy(&users.get(id).unwrap().told()).ends_with("-@all +get"));
    let ann = users.get(id).unwrap().clone();
    assert_eq!(users.replace(vec![ann]), [DEFAULT], "the default user is as it was at first");
    assert_eq!(users.remove(b"ann"), Some(id));
    assert!(users.open() && !users.are_limited());
}
