#!/usr/bin/perl
# Imitates the Perl person of the department: Test::More, TAP, and prove(1) if need be.

use strict;
use warnings;
use Errno qw(EINVAL ERANGE);
use IO::Socket::INET;
use Test::More tests => 28;

my ($nout, $counter, $start) = ('/proc/kstat/nout', '/proc/kstat/counter', '/sys/module/kstat/parameters/start');

sub slurp {
    my $path = shift;
    open my $f, '<', $path or return "$path: $!";
    local $/;
    return scalar <$f>;
}

# store($path, $text) is what one write(2) came to: 0, or its errno.
sub store {
    my ($path, $text) = @_;
    open my $f, '>', $path or die "$path: $!";
    my $n = syswrite $f, $text;
    return defined $n ? $n == length $text ? 0 : "$n bytes" : $! + 0;
}

# knock($n) is $n connects that are refused: a SYN and a RST each.
sub knock { IO::Socket::INET->new('127.0.0.1:3') and die 'somebody listens' for 1 .. shift }

is system('insmod', 'kstat.ko'), 0, 'insmod';
END { my $status = $?; system 'rmmod', 'kstat' if -d '/sys/module/kstat'; $? = $status }

is slurp($nout),    "0\n",  'nout';
is slurp($counter), "10\n", 'counter';
is slurp($start),   "0\n",  'start';

# What the kernel's kstrtouint and kstrtoint make of it.
is store($counter, "12\n"), 0, 'a number and a newline';
is store($counter, " 13 "), 0, 'blanks around it';
is slurp($counter), "13\n", '... are not kept';
is store($counter, '010'), 0, 'a leading zero';
is slurp($counter), "10\n", '... is decimal';
is store($counter, '0x10'),       EINVAL, 'hexadecimal';
is store($counter, "10\n20"),     EINVAL, 'two lines';
is store($counter, '4294967296'), ERANGE, '33 bits';
is store($counter, '4294967295'), 0,      '32 bits';
is store($counter, '-1'),         EINVAL, 'negative';
is store($counter, '0'),          EINVAL, 'zero';
is store($counter, '9' x 5000),   EINVAL, 'more than a page';
is slurp($counter), "4294967295\n", 'a refused write changes nothing';

is store($start, '2'),   EINVAL, 'start: 2';
is store($start, 'on'),  EINVAL, 'start: on';
is store($start, '0x1'), 0,      'start: 0x1';
is slurp($start), "1\n", '... is 1';

knock(50);
is slurp($nout), "0\n", '100 of 4294967295 packets';
is store($counter, '200'), 0, 'counter 200';
is slurp($nout), "0\n", '100 of 200 packets';
is store($counter, '100'), 0, 'counter 100';
is slurp($nout), "100\n", '100 of 100 packets';

is system('rmmod', 'kstat'), 0, 'rmmod';
ok !-e '/proc/kstat', '... takes the files away';
