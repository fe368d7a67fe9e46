# Imitates a lecturer for whom everything is a makefile: make -s -f grade.mk grade
# A target is an exercise, an exercise fails as its recipe does, and there are no half points.

SHELL := /bin/bash
.SHELLFLAGS := -euc
.NOTPARALLEL:
.PHONY: grade load counter start stop bad unload

KSTAT := /proc/kstat
START := /sys/module/kstat/parameters/start

# $(call connect,N): N connects to a closed port, 2N TCP packets
connect = for i in {1..$(1)}; do (: < /dev/tcp/127.0.0.1/4) 2> /dev/null && exit 1; done; true

# $(call expect,FILE,TEXT): FILE is TEXT and a newline, to the byte
expect = cmp $(1) <(echo $(2))

grade: load counter start stop bad unload
	@echo 'All six exercises: 6/6'

load:
	@insmod ./kstat.ko
	@grep -c '^kstat ' /proc/modules > /dev/null
	@$(call expect,$(KSTAT)/nout,0)
	@$(call expect,$(KSTAT)/counter,10)
	@$(call expect,$(START),0)
	@echo 'exercise $@: 1 point'

counter: load
	@echo 6 > $(KSTAT)/counter
	@$(call expect,$(KSTAT)/counter,6)
	@echo 'exercise $@: 1 point'

start: counter
	@$(call connect,4)
	@$(call expect,$(KSTAT)/nout,0)
	@echo "1" > $(START)
	@$(call connect,2)
	@$(call expect,$(KSTAT)/nout,0)
	@$(call connect,1)
	@$(call expect,$(KSTAT)/nout,6)
	@$(call connect,8)
	@$(call expect,$(KSTAT)/nout,18)
	@echo 'exercise $@: 1 point'

stop: start
	@echo "0" > $(START)
	@$(call connect,20)
	@$(call expect,$(KSTAT)/nout,18)
	@echo 'exercise $@: 1 point'

bad: stop
	@for text in 0 -5 five 5x '5 5' ''; do if echo "$$text" > $(KSTAT)/counter; then exit 1; fi; done 2> /dev/null
	@$(call expect,$(KSTAT)/counter,6)
	@echo 'exercise $@: 1 point'

unload: bad
	@rmmod kstat
	@test ! -e $(KSTAT) -a ! -e /sys/module/kstat
	@echo 'exercise $@: 1 point'
