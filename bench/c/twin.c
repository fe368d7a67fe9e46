/*
 * twin - a C libfuse3 (low level) file system with one file, nout: what a FUSE read costs without Go.
 *
 *   twin MOUNT_POINT
 *
 * As kstatd does: direct I/O, no flush, long entry and attribute timeouts. One thread. Prints "ready" when mounted.
 */
#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define NOUT 2
#define TIMEOUT 3600.0

static struct stat attributes(fuse_ino_t ino)
{
	struct stat st = { .st_ino = ino, .st_nlink = 1, .st_mode = S_IFREG | 0444 };

	if (ino == FUSE_ROOT_ID) {
		st.st_nlink = 2;
		st.st_mode = S_IFDIR | 0555;
	}
	return st;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = NOUT, .attr = attributes(NOUT), .attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT };

	if (parent == FUSE_ROOT_ID && !strcmp(name, "nout"))
		fuse_reply_entry(req, &e);
	else
		fuse_reply_err(req, ENOENT);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = attributes(ino);

	(void)fi;
	fuse_reply_attr(req, &st, TIMEOUT);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static const char text[] = "1234567\n";
	size_t len = sizeof(text) - 1;

	(void)ino;
	(void)fi;
	if ((size_t)off >= len)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_buf(req, text + off, size < len - off ? size : len - off);
}

int main(int argc, char **argv)
{
	struct fuse_lowlevel_ops ops = { .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_session *se;
	int status;

	if (argc != 2)
		return 2;
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se || fuse_set_signal_handlers(se) || fuse_session_mount(se, argv[1]))
		return 1;
	printf("ready\n");
	fflush(stdout);
	status = fuse_session_loop(se);
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	return status != 0 && status != SIGTERM;
}
