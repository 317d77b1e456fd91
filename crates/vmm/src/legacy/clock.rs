//! CMOS real-time clock (MC146818): the host's time in UTC. No alarm and no interrupt.

use crate::bus::BusDevice;
use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Divider on, 1024 Hz: what firmware leaves behind.
const STATUS_A_RUNNING: u8 = 0x26;
const STATUS_B_24_HOURS: u8 = 1 << 1;
const STATUS_B_BINARY: u8 = 1 << 2;
const STATUS_D_POWER_GOOD: u8 = 1 << 7;
const INDEX_MASK: u8 = 0x7f;

struct State {
    index: u8,
    memory: [u8; 128],
}

/// The clock's index and data port.
pub struct Clock {
    state: Mutex<State>,
    now: fn() -> SystemTime,
}

impl Clock {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_source(SystemTime::now)
    }

    fn with_source(now: fn() -> SystemTime) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(STATUS_B)] = STATUS_B_24_HOURS;
        Self { state: Mutex::new(State { index: 0, memory }), now }
    }

    fn register(&self, state: &State) -> u8 {
        let seconds = (self.now)().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let days = seconds / 86_400;
        let (year, month, day) = civil_from_days(days);
        let value = match state.index {
            SECONDS => seconds % 60,
            MINUTES => seconds / 60 % 60,
            HOURS => seconds / 3600 % 24,
            // Sunday is 1; the epoch was a Thursday.
            DAY_OF_WEEK => (days + 4) % 7 + 1,
            DAY => day,
            MONTH => month,
            YEAR => year % 100,
            CENTURY => year / 100,
            STATUS_A => return STATUS_A_RUNNING,
            STATUS_C => return 0,
            STATUS_D => return STATUS_D_POWER_GOOD,
            other => return state.memory[usize::from(other & INDEX_MASK)],
        } as u8;
        if state.memory[usize::from(STATUS_B)] & STATUS_B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

impl BusDevice for Clock {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = if offset == 0 { state.index } else { self.register(&state) };
        }
    }

    fn write(&self, _base: u64, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            state.index = value & INDEX_MASK;
        } else {
            // Time registers are written too, and have no effect: the host keeps the time.
            let index = usize::from(state.index);
            state.memory[index] = match state.index {
                STATUS_B => (value & STATUS_B_BINARY) | STATUS_B_24_HOURS,
                _ => value,
            };
        }
    }
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Years that begin in March put the leap day last, so months have a regular pattern.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2028-02-29 23:59:58 UTC, a Tuesday.
    fn leap_day() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_835_481_598)
    }

    fn read(clock: &Clock, index: u8) -> u8 {
        clock.write(0x70, 0, &[index]);
        let mut value = [0];
        clock.read(0x70, 1, &mut value);
        value[0]
    }

    #[test]
    fn it_shows_the_time_in_bcd_and_in_binary() {
        let clock = Clock::with_source(leap_day);
        let registers = [SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY, MONTH, YEAR, CENTURY];
        let bcd = registers.map(|index| read(&clock, index));
        assert_eq!(bcd, [0x58, 0x59, 0x23, 3, 0x29, 2, 0x28, 0x20]);
        clock.write(0x70, 0, &[STATUS_B]);
        clock.write(0x70, 1, &[STATUS_B_BINARY]);
        let binary = registers.map(|index| read(&clock, index));
        assert_eq!(binary, [58, 59, 23, 3, 29, 2, 28, 20]);
    }

    #[test]
    fn it_is_never_updating_and_its_battery_is_good() {
        let clock = Clock::with_source(leap_day);
        assert_eq!(read(&clock, STATUS_A) & 0x80, 0);
        assert_eq!(read(&clock, STATUS_D), 0x80);
        assert_eq!(read(&clock, STATUS_B | 0x80), STATUS_B_24_HOURS);
    }

    #[test]
    fn the_calendar_knows_century_rules() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(civil_from_days(47_540), (2100, 2, 28));
        assert_eq!(civil_from_days(47_541), (2100, 3, 1));
    }
}
